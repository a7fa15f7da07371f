//! How much memory an answer takes: the quantised weights, mapped once, and what is computed.
#![cfg(target_os = "linux")]

mod harness;

use std::process::{Command, Stdio};
use std::time::Duration;

use arc_core::train::{Targets, target_loss};
use burn::tensor::{Device, Tensor};
use harness::notice::notice;
use harness::{decoder, repository};

/// The largest resident size, in bytes, of `arc ask` about the README's document.
fn peak_of_an_answer(name: &str, precision: &str) -> u64 {
    let mut child = Command::new(env!("CARGO_BIN_EXE_arc"))
        .current_dir(repository("."))
        .args(["ask", "--yes", "--json", "--no-cache", "--max-tokens", "8", "--precision", precision])
        .args([
            "--decoder",
            name,
            "examples/washington-1790.txt",
            "Which district is to become a new member?",
        ])
        .stdout(Stdio::null())
        .spawn()
        .expect("arc starts");
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    let exit = loop {
        // The kernel keeps the peak, so that only what happens after the last look is missed.
        let line = std::fs::read_to_string(&status).unwrap_or_default();
        let field = line.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        if let Some(kibibytes) =
            field.and_then(|field| field.trim().trim_end_matches(" kB").parse::<u64>().ok())
        {
            peak = peak.max(kibibytes * 1024);
        }
        if let Some(exit) = child.try_wait().expect("the child is ours") {
            break exit;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(exit.success(), "arc ask --decoder {name} ends with {exit}");
    notice(format_args!("{name}, {precision}: {} MB at most", peak / 1_000_000));
    peak
}

/// A decoder's file has 100 to 400 MB. Weights that are laid out stand in its place, not beside it.
#[test]
fn an_answer_takes_the_memory_of_the_weights_once() {
    for (name, most) in [("smollm2-135m", 300), ("gemma3-270m", 500), ("qwen2.5-coder-0.5b", 720)] {
        // Pulls the model where it is not there, or says why it is left out.
        if decoder(name).is_none() {
            continue;
        }
        let [exact, fast] = ["exact", "fast"].map(|precision| peak_of_an_answer(name, precision));
        // Less than its own file would mean that nothing was measured.
        assert!((98_000_000..most * 1_000_000).contains(&exact), "{name}, exact: {exact} bytes");
        // The vocabulary's tables are freed at one time or another.
        assert!(fast < exact + exact / 16 + 8_000_000, "{name}, fast: {fast} bytes, exact {exact}");
    }
}

/// The loss through a vocabulary of 262,144 for 2,048 targets: all their logits at once would take
/// 2 GiB, and as much again for their gradient.
#[test]
fn the_vocabulary_does_not_set_the_memory_of_the_loss() {
    let device = Device::flex();
    let (targets, width, vocabulary) = (2048, 4, 262_144);
    let hidden = Tensor::<2>::ones([targets, width], &device);
    let head = Tensor::<2>::ones([width, vocabulary], &device);
    let ids: Vec<u32> = (0..targets as u32).collect();
    let found = target_loss(hidden, &head, &Targets { ids: &ids, teacher: None, count_correct: true });
    // Every token is as likely as any other.
    let mean = f64::from(found.sum.into_scalar::<f32>()) / targets as f64;
    assert!((mean - (vocabulary as f64).ln()).abs() < 1e-3, "{mean}");
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its peak");
    let kibibytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kibibytes < 1 << 20, "{kibibytes} KiB at most");
}
