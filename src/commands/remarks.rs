//! What the user of an adapter should know of it.

use arc_adapters::Pin;
use arc_core::{AdaptedDecoder, OverriddenPin};

use crate::output::Output;

/// Says which pins `--force` overrode.
pub(super) fn warn_of_overridden_pins(pins: &[OverriddenPin], output: &Output) {
    for OverriddenPin { adapter, pin, expected, found, .. } in pins {
        output.warning(match pin {
            Pin::Package => format!(
                "adapter `{adapter}` is pinned as `{expected}`, this one is `{found}`; used all the same"
            ),
            _ => format!(
                "adapter `{adapter}` was made for {pin} `{expected}`, this one is `{found}`; used all the same"
            ),
        });
    }
}

/// Says what an adapter does not pin.
pub(super) fn remark_on_unpinned(decoder: &AdaptedDecoder, output: &Output) {
    let unpinned: Vec<_> = decoder.unpinned().iter().map(ToString::to_string).collect();
    if !unpinned.is_empty() {
        output.remark(format!(
            "remark: adapter `{}` does not pin the {} of its decoder, so that nothing tells whether this is the one",
            decoder.adapter.manifest.name,
            unpinned.join(" and the ")
        ));
    }
}

/// What the reader of an answer should know of latents at these pooling factors.
pub(super) fn warnings_of_factors(
    decoder: &AdaptedDecoder,
    factors: impl IntoIterator<Item = usize>,
) -> impl Iterator<Item = String> {
    factors.into_iter().filter_map(|factor| {
        let made_for: Vec<_> = decoder.other_factors(factor)?.iter().map(u32::to_string).collect();
        Some(format!(
            "adapter `{}` was made for pooling factor {}, the latents have {factor}",
            decoder.adapter.manifest.name,
            made_for.join(", ")
        ))
    })
}
