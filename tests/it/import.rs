//! `outrigger import`: files of confd, Consul and consul-template as people have them; what is printed is what our reader takes.

use crate::support::{outrigger, said};
use outrigger::descriptor::spec::{
    Address, Config, Descriptor, MadeOf, ProbeKind, Reload, Validate,
};
use outrigger::descriptor::{Surroundings, parse, without_a_file};
use std::{fs, path::Path, process::Output};

/// Files in a folder, and what an import of the folder says.
fn import(files: &[(&str, &str)]) -> (Output, String, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let output = outrigger()
        .arg("import")
        .arg(folder.path())
        .output()
        .unwrap();
    let at = format!("{}/", folder.path().display());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(&at, "");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    (output, out, err)
}

/// Of a configuration that is kept as it is.
fn data_id(config: &Config) -> &str {
    match &config.made_of {
        MadeOf::One(part) => &part.data_id,
        MadeOf::Several { .. } => panic!("{config:?}"),
    }
}

/// What our own reader makes of it.
fn read(text: &str) -> Descriptor {
    let settings = without_a_file().unwrap();
    parse(
        Path::new("import.yaml"),
        text,
        &settings,
        &Surroundings::default(),
    )
    .unwrap_or_else(|problems| panic!("{problems:?}\n{text}"))
}

const NGINX: &str = r#"[template]
src = "nginx.tmpl"
dest = "/etc/nginx/upstreams/web.conf"
keys = ["/web/host", "/web/port"]
uid = 33
gid = 33
mode = "0644"
check_cmd = "/usr/sbin/nginx -t -c {{.src}}"
reload_cmd = "/usr/sbin/nginx -s reload"
"#;

#[test]
fn a_template_resource_of_confd_becomes_a_configuration() {
    let (output, out, err) = import(&[
        ("conf.d/nginx.toml", NGINX),
        (
            "templates/nginx.tmpl",
            "server {{getv \"/web/host\"}}:{{getv \"/web/port\"}};\n",
        ),
        (
            "conf.d/app.toml",
            "[template]\nsrc = \"app.tmpl\"\ndest = \"/etc/app/app.yaml\"\nkeys = [\"/app/app.yaml\"]\nowner = \"app\"\nreload_cmd = \"pkill -HUP app && logger done\"\n",
        ),
        ("templates/app.tmpl", "{{ getv \"/app/app.yaml\" }}\n"),
    ]);
    assert_eq!(
        output.status.code(),
        Some(65),
        "the Go text was left out: {}",
        said(&output)
    );
    let configs = read(&out).configs;
    assert_eq!(configs.len(), 2, "{out}");
    let app = &configs[0];
    assert_eq!(
        data_id(app),
        "app.app.yaml",
        "a template of one key is that key"
    );
    assert_eq!(
        app.target.owner.as_ref().unwrap().user.as_deref(),
        Some("app")
    );
    let Some(Reload::Exec(reload)) = &app.target.reload else {
        panic!("{app:?}")
    };
    assert_eq!(
        reload.argv,
        ["/bin/sh", "-c", "pkill -HUP app && logger done"]
    );
    let nginx = &configs[1];
    assert_eq!((data_id(nginx), nginx.target.mode), ("web.conf", 0o644));
    let Some(Validate::Exec(check)) = &nginx.target.validate else {
        panic!("{nginx:?}")
    };
    assert_eq!(check.argv, ["/usr/sbin/nginx", "-t", "-c", "{staged}"]);
    assert!(
        err.contains("conf.d/nginx.toml:2:1: template.src: the template nginx.tmpl is Go text, which is not translated")
            && err.contains("in place of the keys /web/host, /web/port")
            && err.contains("conf.d/app.toml:6:1: template.reload_cmd: needs a shell")
            && err.ends_with("2 entries; 2 things to look at\n"),
        "{err}"
    );
}

#[test]
fn services_of_consul_become_services_with_one_probe() {
    let web = r#"{
	"service": {
		"id": "web-1", "name": "web", "port": 8080, "address": "10.0.0.7", "tags": ["v1", "primary"],
		"meta": {"version": "1.4", "db_password": "canary"}, "token": "canary",
		"weights": {"passing": 5, "warning": 1},
		"checks": [
			{"ttl": "30s"},
			{"HTTP": "http://localhost:8080/health?x=1", "Interval": "1m30s", "header": {"Authorization": ["canary"]}},
			{"tcp": "localhost:8080", "interval": "5s"}
		]
	}
}"#;
    let more = "services {\n  name = \"db\" port = 5432\n  check = { args = [\"/bin/check\", \"db\"], interval = \"10s\", failures_before_critical = 2 }\n}\nservice {\n  Name = \"plain\"\n  Port = 99\n}\nservices { name = \"bad name!\", port = 1 }\n";
    let (output, out, err) = import(&[("web.json", web), ("more.hcl", more)]);
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    let services = read(&out).services;
    let names: Vec<&str> = services.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["plain", "db", "web"], "{out}");
    assert_eq!(
        services[0].probe, None,
        "Consul calls what has no check healthy"
    );
    let db = services[1].probe.as_ref().unwrap();
    assert!(matches!(&db.kind, ProbeKind::Exec(command) if command.argv == ["/bin/check", "db"]));
    assert_eq!(db.fall, 2);
    let web = &services[2];
    assert_eq!(web.address, Address::Explicit("10.0.0.7".parse().unwrap()));
    assert!((web.weight - 5.0).abs() < f64::EPSILON);
    assert_eq!(web.metadata["tags"], "v1,primary");
    let probe = web.probe.as_ref().unwrap();
    assert!(
        matches!(&probe.kind, ProbeKind::Http { path, port: 8080, .. } if path == "/health?x=1")
    );
    assert_eq!(probe.interval.as_secs(), 90);
    for words in [
        "web.json:4:30: service.meta.db_password: sounds like a secret",
        "web.json:4:56: service.token: has no equivalent",
        "web.json:7:4: service.checks[0]: a ttl check waits",
        "service.checks[1].header: has no equivalent",
        "web.json:9:4: service.checks[2]: a service has one probe",
        "service.tags: there are no tags",
        "more.hcl:9:1: is left out: name: ",
    ] {
        assert!(err.contains(words), "{words}\n{err}");
        assert!(out.contains(words), "also as a comment: {words}\n{out}");
    }
    assert!(
        !out.contains("canary") && !err.contains("canary"),
        "no secret is printed"
    );
}

#[test]
fn templates_of_consul_template_become_configurations_and_exec_a_command_line() {
    let text = r#"
consul { address = "127.0.0.1:8500" token = "canary" }
template {
  contents = "{{ key \"app/x.conf\" }}"
  destination = "/etc/app/x.conf"
  perms = 0600
  command = ["/usr/bin/app", "reload"]
  command_timeout = "60s"
}
template {
  source = "lb.ctmpl"
  destination = "/etc/haproxy/lb.cfg"
  command = "systemctl reload haproxy"
  backup = true
  left_delimiter = "[["
  right_delimiter = "]]"
}
template {
  source = "lb.ctmpl"
  destination = "/etc/other.cfg"
  command = "curl -H 'X-Token: canary' http://localhost/reload"
}
exec {
  command = "/bin/app --password canary"
  reload_signal = "SIGHUP"
  kill_timeout = "30s"
}
"#;
    let (output, out, err) = import(&[
        ("ct.hcl", text),
        (
            "lb.ctmpl",
            "[[ range service \"web\" ]]server [[ .Address ]];[[ end ]]",
        ),
    ]);
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    let configs = read(&out).configs;
    assert_eq!(configs.len(), 3, "{out}");
    assert_eq!(
        (data_id(&configs[0]), configs[0].target.mode),
        ("app.x.conf", 0o600)
    );
    let Some(Reload::Exec(reload)) = &configs[0].target.reload else {
        panic!()
    };
    assert_eq!(
        (reload.argv.join(" ").as_str(), reload.timeout.as_secs()),
        ("/usr/bin/app reload", 60)
    );
    assert_eq!(configs[2].target.reload, None, "its command has a secret");
    for words in [
        "the template lb.ctmpl is Go text, which is not translated; it lists web",
        "ct.hcl:14:3: template.backup: has no equivalent",
        "ct.hcl:2:1: consul: has no equivalent",
        "ct.hcl:21:3: template.command: sounds as if it had a secret",
    ] {
        assert!(err.contains(words), "{words}\n{err}");
    }
    assert!(
        out.contains("#   outrigger exec --on-change signal:HUP --kill-after 30s -- COMMAND"),
        "{out}"
    );
    assert!(
        out.contains(
            "#   subscriptions: [{ service: web, path: \"/etc/haproxy/lb.cfg\", format: nginx }]"
        ),
        "{out}"
    );
    assert!(
        !out.contains("canary") && !err.contains("canary"),
        "no secret is printed"
    );
}

#[test]
fn garbage_is_one_error_a_file_and_the_others_go_on() {
    let (output, out, err) = import(&[
        ("a.json", "{ \"service\": "),
        ("b.hcl", "a = = b"),
        ("c.toml", "[template\n"),
        ("d.toml", "title = \"x\"\n"),
        ("e.json", "[1, 2]"),
        ("f.hcl", "service { name = \"fine\" port = 80 }"),
        (
            "g.hcl",
            "service { name = \"x\\u001b[0m: y\\n- z\" port = 80 }",
        ),
        ("ignored.md", "x"),
    ]);
    assert_eq!(output.status.code(), Some(65), "{}", said(&output));
    let services = read(&out).services;
    assert_eq!(services.len(), 1, "{out}");
    assert_eq!(services[0].name, "fine");
    for words in [
        "a.json:1:",
        "b.hcl:1:5: ",
        "c.toml:1:",
        "d.toml: is no template",
        "e.json: has no `service`",
        "g.hcl:1:1: is left out: name",
    ] {
        assert!(err.contains(words), "{words}\n{err}");
    }
    assert!(!out.contains('\u{1b}') && !err.contains('\u{1b}'));
    assert!(err.ends_with("1 entry; 6 things to look at\n"), "{err}");
}

#[test]
fn an_import_that_leaves_nothing_out_is_0() {
    let (output, out, err) = import(&[("a.json", r#"{"service": {"name": "a", "port": 80}}"#)]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(read(&out).services.len(), 1);
    assert_eq!(err, "1 entry; nothing was left out\n");
    let nowhere = outrigger().args(["import", "/nowhere"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(65));
    assert!(nowhere.stdout.is_empty());
}
