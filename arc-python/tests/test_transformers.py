"""Hugging Face transformers, in float32 with the same GGUF's weights, reads latents as `arc` does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import DECODERS

import arc_encoder as arc
from arc_encoder import errors

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("gguf")
pytest.importorskip("accelerate")

QUESTION = "In which country was the loan completed?"


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    return {}


def model_of(decoder: arc.Decoder, loaded: dict[str, Any]) -> Any:
    """The same file's weights, dequantised to float32 by the package `gguf`; one model at a time."""
    if decoder.name not in loaded:
        loaded.clear()
        from pathlib import Path

        path = Path(decoder.path)
        loaded[decoder.name] = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()
    return loaded[decoder.name]


@pytest.mark.parametrize("name", DECODERS)
def test_logits_and_greedy_tokens_behind_latents_are_those_of_arc(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any], name: str
) -> None:
    from arc_encoder.transformers import inputs

    ours = decoder(name)
    model = model_of(ours, loaded)
    prompt = ours.prompt(latents, QUESTION)
    read = inputs(model, ours, prompt)
    assert read["inputs_embeds"].shape == (1, len(prompt), ours.width)
    assert read["attention_mask"].tolist() == [[1] * len(prompt)]
    with torch.no_grad():
        theirs = model(**read).logits[0, -12:].numpy()[:, : ours.vocabulary]
    expected = ours.logits(prompt, last=12)
    difference = float(np.abs(theirs - expected).max())
    print(f"{name}: logits of ±{np.abs(expected).max():.1f} differ by {difference:.1e}")
    assert difference < 1e-2
    written = model.generate(**read, max_new_tokens=24, do_sample=False)[0].tolist()
    assert written == ours.generate(prompt, max_tokens=24).token_ids


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b"])
def test_conversations_with_documents_are_read_as_arc_reads_them(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any], name: str
) -> None:
    from arc_encoder.transformers import chat_inputs

    ours = decoder(name)
    model = model_of(ours, loaded)
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": ["A letter: ", latents, " Who wrote it?"]},
    ]
    read = chat_inputs(model, ours, messages)
    with torch.no_grad():
        theirs = model(**read).logits[0, -1].numpy()[: ours.vocabulary]
    prompt = ours.chat_prompt(messages)
    assert float(np.abs(theirs - ours.logits(prompt)[0]).max()) < 1e-2
    written = model.generate(**read, max_new_tokens=12, do_sample=False)[0].tolist()
    assert written == ours.generate(prompt, max_tokens=12).token_ids


@pytest.mark.parametrize("name", ["smollm2-135m", "qwen2.5-coder-0.5b"])
def test_templates_and_special_tokens_are_those_of_transformers(
    decoder: Callable[[str], arc.Decoder], name: str
) -> None:
    from pathlib import Path

    ours = decoder(name)
    path = Path(ours.path)
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    messages = [
        {"role": "system", "content": "Answer in one word."},
        {"role": "user", "content": "Who wrote it?\n\nAnd why?"},
        {"role": "assistant", "content": "He did."},
        {"role": "user", "content": "  When? "},
    ]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert ours.chat_prompt(messages).token_ids.tolist() == list(expected)


def test_a_batch_is_padded_on_the_left_and_reads_as_its_prompts(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any]
) -> None:
    from arc_encoder.transformers import inputs

    ours = decoder("smollm2-135m")
    model = model_of(ours, loaded)
    prompts = [ours.prompt(latents, QUESTION), ours.prompt(latents, "Why?")]
    read = inputs(model, ours, prompts)
    assert read["attention_mask"].sum(dim=1).tolist() == [len(prompt) for prompt in prompts]
    written = model.generate(**read, max_new_tokens=8, do_sample=False)
    for row, prompt in zip(written.tolist(), prompts, strict=True):
        expected = ours.generate(prompt, max_tokens=8).token_ids
        assert row[: len(expected)] == expected


def test_a_model_in_half_precision_is_taken(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any]
) -> None:
    from arc_encoder.transformers import question_inputs

    ours = decoder("smollm2-135m")
    model = model_of(ours, loaded)
    half = type(model)(model.config).to(torch.bfloat16)
    half.load_state_dict(model.state_dict())
    read = question_inputs(half, ours, latents, QUESTION)
    assert read["inputs_embeds"].dtype == torch.bfloat16
    assert bool(torch.isfinite(half(**read).logits).all())


def small(kind: str, **settings: Any) -> Any:
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=576, intermediate_size=64, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=1,
        head_dim=64, vocab_size=300, **settings,
    )
    return getattr(transformers, f"{kind}ForCausalLM")(config).eval()


def test_other_models_are_refused(decoder: Callable[[str], arc.Decoder], latents: arc.Latents) -> None:
    from arc_encoder.transformers import question_inputs

    with pytest.raises(errors.MismatchError, match="are not those of `smollm2-135m`") as other:
        question_inputs(small("Llama"), decoder("smollm2-135m"), latents, QUESTION)
    assert "load the model" in (other.value.hint or "")
    with pytest.raises(errors.MismatchError, match="width 576"):
        question_inputs(small("Llama"), decoder("gemma3-270m"), latents, QUESTION)


def test_models_with_per_layer_inputs_are_refused_with_the_reason(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any]
) -> None:
    from arc_encoder.transformers import question_inputs

    if not hasattr(transformers, "Gemma3nTextConfig"):
        pytest.skip("this version of transformers has no Gemma 3n")
    config = transformers.Gemma3nTextConfig(
        hidden_size=576, intermediate_size=[64, 64], num_hidden_layers=2, num_attention_heads=8,
        num_key_value_heads=1, head_dim=64, vocab_size=300, vocab_size_per_layer_input=300,
        hidden_size_per_layer_input=16, layer_types=["sliding_attention", "full_attention"],
        num_kv_shared_layers=0, activation_sparsity_pattern=[0.0, 0.0], laurel_rank=8,
    )
    model = transformers.Gemma3nForCausalLM(config).eval()
    with pytest.raises(errors.BridgeError, match="inputs of their own for each token") as refused:
        question_inputs(model, decoder("smollm2-135m"), latents, QUESTION)
    assert "hidden_size_per_layer_input" in refused.value.message
    assert refused.value.hint


def test_a_model_that_reads_ids_in_secret_is_found_by_what_it_computes(
    decoder: Callable[[str], arc.Decoder], latents: arc.Latents, loaded: dict[str, Any]
) -> None:
    from arc_encoder.transformers import check

    ours = decoder("smollm2-135m")
    model = model_of(ours, loaded)

    class Secret(type(model)):  # type: ignore[misc]
        def forward(self, input_ids: Any = None, inputs_embeds: Any = None, **others: Any) -> Any:
            output = super().forward(input_ids=input_ids, inputs_embeds=inputs_embeds, **others)
            if input_ids is not None:
                output.logits = output.logits + input_ids[..., None] % 7
            return output

    secret = Secret(model.config).eval()
    secret.load_state_dict(model.state_dict())
    with pytest.raises(errors.BridgeError, match="its logits differ"):
        check(secret, ours)
