//! Templates that ask for more than there is: each ends with an error, soon, in a small stack and in little
//! memory.

use std::time::{Duration, Instant};

use arc_jinja::{ErrorKind, Limits, Options, Template, Value};

fn repeated(begin: &str, times: usize, end: &str) -> String {
    format!("{}{}", begin.repeat(times), end.repeat(times))
}

/// Forty turns of a loop around a statement about `ns.x` and `ns.y`, and what is written then.
fn doubled(first: &str, turn: &str, then: &str) -> String {
    format!(
        "{{% set ns = namespace(x={first}, y={first}) %}}{{% for i in range(40) %}}{turn}{{% endfor %}}{then}"
    )
}

/// What reaches a limit while it runs.
fn endless() -> Vec<String> {
    let nested = "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}";
    let mut templates = vec![
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}".to_owned(),
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}".to_owned(),
        "{% macro f() %}{{ caller() }}{% call f() %}{% endcall %}{% endmacro %}{% call f() %}{% endcall %}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% block a %}{{ self.a() }}{% endblock %}".to_owned(),
        "{% for i in range(100000) %}{% for j in range(100) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}".to_owned(),
        "{{ range(100001) }}".to_owned(),
        "{{ 'a' * 10000000000 }}".to_owned(),
        "{{ [1] * 10000000000 }}".to_owned(),
        "{{ 'a' | center(10000000000) }}".to_owned(),
        "{{ 'a'.ljust(10000000000) }}".to_owned(),
        "{{ 'a'.zfill(10000000000) }}".to_owned(),
        "{{ '\ta'.expandtabs(10000000000) }}".to_owned(),
        "{{ 'a\n' | indent(10000000000) }}".to_owned(),
        "{{ '%10000000000d' % 1 }}".to_owned(),
        "{{ '%.10000000000d' % 1 }}".to_owned(),
        "{{ '%*d' % (10000000000, 1) }}".to_owned(),
        "{{ '{:10000000000}'.format(1) }}".to_owned(),
        "{{ '{:{}}'.format(1, 10000000000) }}".to_owned(),
        "{{ [1] | batch(10000000000, 0) | list }}".to_owned(),
        "{{ [1] | slice(10000000000) | list }}".to_owned(),
        "{{ [1] | tojson(indent=10000000000) }}".to_owned(),
        "{{ ('a' * 100000) | replace('a', 'b' * 100000) }}".to_owned(),
        "{{ ('a' * 100000).replace('', 'b' * 100000) }}".to_owned(),
        "{{ range(100000) | join('a' * 100000) }}".to_owned(),
        "{{ ('a' * 100000).join(['b'] * 100000) }}".to_owned(),
        "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(x='a') %}{% for i in range(1000) %}{% set ns.x = [ns.x].index %}{% endfor %}"
            .to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% for j in [ns.x] %}{% set ns.x = loop %}\
         {% endfor %}{% endfor %}"
            .to_owned(),
        "{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}\
         {{ ns }}"
            .to_owned(),
    ];
    for then in [
        "{{ ns.x }}",
        "{{ ns.x ~ '' }}",
        "{{ ns.x | string }}",
        "{{ ns.x | tojson }}",
        "{{ '%s' % [ns.x] }}",
        "{{ '{}'.format(ns.x) }}",
        "{{ ns.x == ns.y }}",
        "{{ ns.x in [ns.y] }}",
        "{{ [ns.x, ns.y] | sort }}",
        "{{ [ns.x] | join }}",
    ] {
        templates.push(doubled("[1]", nested, then));
    }
    for turn in [
        "{% set ns.x = ns.x ~ ns.x %}",
        "{% set ns.x = ns.x + ns.x %}",
        "{% set ns.x = ns.x * 2 %}",
        "{% set ns.x = ns.x.replace('a', 'aa') %}",
        "{% set ns.x = ns.x | replace('a', 'aa') %}",
        "{% set ns.x = '%s%s' % (ns.x, ns.x) %}",
        "{% set ns.x = '{}{}'.format(ns.x, ns.x) %}",
        "{% set ns.x = [ns.x, ns.x] | join %}",
        "{% set ns.x = ns.x | tojson | tojson %}",
        "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}",
    ] {
        templates.push(doubled("'aaaaaaaaaaaaaaaa'", turn, ""));
    }
    templates
}

/// What is refused before it runs.
fn too_deep() -> Vec<String> {
    let many = 20_000;
    vec![
        format!("{{{{ {} }}}}", repeated("(", many, ")")),
        format!("{{{{ {} }}}}", repeated("[", many, "]")),
        format!("{{{{ {}1{} }}}}", "{1:".repeat(many), "}".repeat(many)),
        format!("{{{{ {}1 }}}}", "not ".repeat(many)),
        format!("{{{{ {}1 }}}}", "-".repeat(many)),
        format!("{{{{ a{} }}}}", ".b".repeat(many)),
        format!("{{{{ a{} }}}}", "[0]".repeat(many)),
        format!("{{{{ a{} }}}}", "()".repeat(many)),
        format!("{{{{ a{} }}}}", "|upper".repeat(many)),
        format!("{{{{ a{} }}}}", " if 1 else 1".repeat(many)),
        format!("{{{{ 1{} }}}}", "+1".repeat(many)),
        format!("{{{{ 1{} }}}}", "*1".repeat(many)),
        format!("{{{{ 1{} }}}}", "**1".repeat(many)),
        format!("{{{{ 1{} }}}}", " and 1".repeat(many)),
        format!("{{{{ 1{} }}}}", " or 1".repeat(many)),
        repeated("{% if 1 %}", many, "{% endif %}"),
        repeated("{% for x in y %}", many, "{% endfor %}"),
        repeated("{% set x %}", many, "{% endset %}"),
        format!("{{% for {}a{} in b %}}{{% endfor %}}", "(".repeat(many), ")".repeat(many)),
        "a".repeat(Limits::SOURCE_BYTES + 1),
    ]
}

fn render(source: &str) -> Result<String, arc_jinja::Error> {
    Template::compile(source, Options::TRANSFORMERS)?.render([("a", Value::NONE)], Limits::DEFAULT)
}

#[test]
fn templates_that_do_not_end_are_ended() {
    let run = || {
        for source in endless() {
            let started = Instant::now();
            let error = render(&source).expect_err(&source);
            assert_eq!(error.kind(), ErrorKind::Limit, "{source}: {error}");
            // A tenth of a second where the machine is free.
            assert!(started.elapsed() < Duration::from_secs(20), "{source}: {:?}", started.elapsed());
        }
        for source in too_deep() {
            let error = render(&source).expect_err("it is too deep");
            assert_eq!(error.kind(), ErrorKind::Syntax, "{error}");
        }
    };
    // Threads have 2 MiB, and somebody has called this from somewhere.
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
    #[cfg(target_os = "linux")]
    {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(kilobytes < 256 << 10, "{kilobytes} kB");
    }
}

/// As deep as is taken, which nothing may overflow on.
#[test]
fn what_is_as_deep_as_it_may_be_runs_in_a_small_stack() {
    let run = || {
        let depth = 120;
        for source in [
            format!("{{{{ {}1{} }}}}", "(".repeat(depth), ")".repeat(depth)),
            format!("{{{{ {}1{} }}}}", "[".repeat(70), "]".repeat(70)),
            format!("{{{{ {}1 }}}}", "not ".repeat(depth)),
            format!("{{{{ 1{} }}}}", "+1".repeat(depth)),
            repeated("{% if 1 %}", 140, "{% endif %}"),
            repeated("{% for x in [1] %}", 140, "{% endfor %}"),
            "{% macro f(n) %}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(40) }}".to_owned(),
        ] {
            render(&source).expect(&source);
        }
    };
    std::thread::Builder::new().stack_size(1 << 20).spawn(run).unwrap().join().unwrap();
}

/// What a template says of itself goes to a terminal.
#[test]
fn an_error_has_no_control_characters_and_one_line() {
    let error = render("\n{{ raise_exception('a\\x1b[2J\\nb \\u202ec \u{7}é') }}").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Raised);
    assert_eq!(error.to_string(), "a\\u{1b}[2J b \\u{202e}c \\u{7}é (line 2)");
}

#[test]
fn templates_are_shared_between_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Template>();
}
