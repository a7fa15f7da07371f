//! Loads a code plugin as a host does, and projects some rows.
//!
//! ```text
//! load_plugin PLUGIN SHA256 FOLDER [--isolate] [--forbid] [--threads N] [--calls N] [--value V]
//! ```
//! Prints one line for each call, `ok SUM` or `error TEXT`, and `alive` at the end. Run with
//! `--plugin-host` alone it is the process that an isolated plugin runs in.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use arc_adapters::{Adapter, Isolation, PluginPolicy, Registry, serve_plugin};

const HOST: &str = "--plugin-host";

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let first = args.next().ok_or("PLUGIN is missing")?;
    if first == HOST {
        return Ok(serve_plugin()?);
    }
    let (plugin, sha256) = (first, args.next().ok_or("SHA256 is missing")?);
    let folder = args.next().ok_or("FOLDER is missing")?;
    let mut policy = PluginPolicy::default().allow(true).folders(vec![PathBuf::from(folder)]);
    let (mut threads, mut calls, mut value) = (1usize, 1usize, 0.5f32);
    while let Some(arg) = args.next() {
        let mut next = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--isolate" => {
                let isolation = Isolation::new(std::env::current_exe()?).args(vec![HOST.to_owned()]);
                policy.isolation = Some(isolation.timeout(Duration::from_secs(5)));
            }
            "--forbid" => policy.allow = false,
            "--threads" => threads = next()?.parse()?,
            "--calls" => calls = next()?.parse()?,
            "--value" => value = next()?.parse()?,
            _ => return Err(format!("unknown argument `{arg}`").into()),
        }
    }
    let registry = format!(
        "schema = 1\n[decoders.d]\nsource = 'file:none'\nplugin = {{ path = '{plugin}', sha256 = '{sha256}' }}\n"
    );
    let registry = Registry::parse(&registry, &PathBuf::from("registry.toml"))?;
    match registry.resolve("d", None)?.open(&policy) {
        Err(error) => println!("error {error}"),
        Ok(adapter) => std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    for _ in 0..calls {
                        println!("{}", project(&adapter, value));
                    }
                });
            }
        }),
    }
    println!("alive");
    Ok(())
}

fn project(adapter: &Adapter, value: f32) -> String {
    const N: usize = 3;
    let Some(projector) = adapter.host_projector() else {
        return "ok without project".to_owned();
    };
    match projector.project(&vec![value; N * adapter.manifest.d_encoder], N) {
        Ok(y) => format!("ok {}", y.iter().sum::<f32>()),
        Err(error) => format!("error {error}"),
    }
}
