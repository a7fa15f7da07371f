// The logits that llama.cpp gives for token ids, as `arc bench --divergence TEXT --logits FILE` takes them: float32,
// `[tokens, vocabulary]`. Ids come on standard input, with white space between; logits go to standard output.
//
//   clang++ -O2 -I llama.cpp/include -I llama.cpp/ggml/include scripts/bench/llama-logits.cpp \
//       -L build/bin -lllama -lggml -lggml-base -o llama-logits
//   llama-logits MODEL.gguf AT-ONCE < ids > logits.bin

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <vector>

#include "llama.h"

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: llama-logits MODEL.gguf AT-ONCE < ids > logits\n";
        return 2;
    }
    const int at_once = std::atoi(argv[2]);
    std::vector<llama_token> ids;
    for (llama_token id; std::cin >> id;) ids.push_back(id);
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) return 1;
    llama_context_params params = llama_context_default_params();
    params.n_ctx = ids.size() + 8;
    params.n_batch = params.n_ubatch = ids.size();
    params.n_threads = params.n_threads_batch = 2;
    llama_context *context = llama_init_from_model(model, params);
    const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    for (size_t start = 0; start < ids.size(); start += at_once) {
        const int count = std::min(ids.size() - start, size_t(at_once));
        llama_batch batch = llama_batch_init(count, 0, 1);
        batch.n_tokens = count;
        for (int i = 0; i < count; i++) {
            batch.token[i] = ids[start + i];
            batch.pos[i] = start + i;
            batch.n_seq_id[i] = 1;
            batch.seq_id[i][0] = 0;
            batch.logits[i] = true;
        }
        if (llama_decode(context, batch)) return 1;
        for (int i = 0; i < count; i++) std::fwrite(llama_get_logits_ith(context, i), sizeof(float), vocabulary, stdout);
        llama_batch_free(batch);
    }
}
