//! `outrigger explain`: wanted, actual, why they differ, what to do; in English or Chinese.
//!
//! Facts (names, addresses, the registry's and the system's own words) are the same in both; the sentences around them are in
//! one table each, side by side, so that a state without advice cannot be added in one language alone.

use super::args::{Lang, Subject};
use super::text::{Paint, WIDTH, ago, now, pad, wrap};
use super::{End, ask, colour, complain, print};
use crate::agent::locate::Considered;
use crate::agent::status::{Config, Happened, Service, Status, Subscription};
use crate::descriptor::{Flags, Surroundings};
use crate::foreign::Foreign;
use std::{io, time::SystemTime};

/// Explains and prints.
pub(super) fn explain(
    flags: &Flags,
    around: &Surroundings,
    what: Option<&Subject>,
    lang: Option<Lang>,
) -> End {
    let socket = match ask::socket(flags, around) {
        Ok(socket) => socket,
        Err(end) => return end,
    };
    let voice = Voice {
        lang: lang.unwrap_or_else(|| spoken(around)),
        paint: Paint(colour(&io::stdout(), around)),
        now: now(),
    };
    if let Some(Subject::Address) = what {
        return match ask::addresses(&socket) {
            Ok(considered) => {
                print(&voice.addresses(&considered));
                End::Done
            }
            Err(end) => end,
        };
    }
    let status = match ask::status(&socket) {
        Ok(status) => status,
        Err(end) => return end,
    };
    match voice.about(&status, what) {
        Some(text) => {
            print(&text);
            End::Done
        }
        None => {
            let known: Vec<&str> = match what {
                Some(Subject::Config { .. }) => status.configs.iter().flat_map(data_ids).collect(),
                Some(Subject::Subscription { .. }) => status
                    .subscriptions
                    .iter()
                    .map(|s| s.service.as_str())
                    .collect(),
                _ => status.services.iter().map(|s| s.name.as_str()).collect(),
            };
            let none = voice.say("nothing of that name; known:", "没有这个名称；已知：");
            let known = match &*known {
                [] => voice.say("none", "无").to_owned(),
                known => known.join(" "),
            };
            complain(&format!("outrigger: {none} {known}\n"));
            End::Usage
        }
    }
}

/// All that a file is made of.
fn data_ids(config: &Config) -> impl Iterator<Item = &str> {
    let one = config.sources.is_empty().then_some(config.data_id.as_str());
    let several = config.sources.iter().map(|source| source.data_id.as_str());
    one.into_iter().chain(several)
}

/// The language that the environment asks for.
fn spoken(around: &Surroundings) -> Lang {
    let set = ["LC_ALL", "LC_MESSAGES", "LANG"]
        .iter()
        .find_map(|name| around.env.get(*name).filter(|value| !value.is_empty()));
    match set {
        Some(value) if value.starts_with("zh") => Lang::Zh,
        _ => Lang::En,
    }
}

struct Voice {
    lang: Lang,
    paint: Paint,
    now: SystemTime,
}

impl Voice {
    fn say(&self, en: &'static str, zh: &'static str) -> &'static str {
        match self.lang {
            Lang::En => en,
            Lang::Zh => zh,
        }
    }

    /// `None` when there is nothing of that name.
    fn about(&self, status: &Status, what: Option<&Subject>) -> Option<String> {
        let mut parts = Vec::new();
        match what {
            Some(Subject::Service { name }) => {
                let of_name = status.services.iter().filter(|s| s.name == *name);
                parts.extend(of_name.map(|service| self.service(service)));
            }
            Some(Subject::Config { data_id }) => {
                let is_of_it = |c: &&Config| data_ids(c).any(|one| one == data_id);
                let of_name = status.configs.iter().filter(is_of_it);
                parts.extend(of_name.map(|config| self.config(config)));
            }
            Some(Subject::Subscription { name }) => {
                let of_name = status.subscriptions.iter().filter(|s| s.service == *name);
                parts.extend(of_name.map(|list| self.subscription(list)));
            }
            _ => {
                parts.push(self.registry(status));
                parts.extend(status.services.iter().map(|service| self.service(service)));
                parts.extend(status.configs.iter().map(|config| self.config(config)));
                let lists = status.subscriptions.iter();
                parts.extend(lists.map(|list| self.subscription(list)));
            }
        }
        (!parts.is_empty()).then(|| parts.join("\n"))
    }

    /// A heading and lines of label and text, the texts below one another.
    fn block(&self, head: &str, lines: &[(&str, String)], history: &[Happened]) -> String {
        let mut out = format!("{}\n", self.paint.bold(head));
        for (label, text) in lines.iter().filter(|(_, text)| !text.is_empty()) {
            for (at, line) in wrap(text, WIDTH - 12).iter().enumerate() {
                let label = if at == 0 { *label } else { "" };
                out += &format!("  {}{line}\n", self.paint.dim(&pad(label, 10)));
            }
        }
        if !history.is_empty() {
            out += &format!("  {}\n", self.paint.dim(self.say("history", "经过")));
        }
        for happened in history {
            // The date matters to nobody who asks now; the time of day does.
            let time = happened.at.get(11..19).unwrap_or(&happened.at);
            for (at, line) in wrap(&happened.what, WIDTH - 16).iter().enumerate() {
                let time = if at == 0 { time } else { "" };
                out += &format!("    {}{line}\n", pad(time, 12));
            }
        }
        out
    }

    fn state(&self, state: &str, since: &str) -> String {
        let ago = ago(since, self.now);
        match self.lang {
            Lang::En => format!("{} for {ago}", self.paint.state(state)),
            Lang::Zh => format!("{}，已持续 {ago}", self.paint.state(state)),
        }
    }

    fn registry(&self, status: &Status) -> String {
        let registry = &status.registry;
        let server = registry.server.clone().unwrap_or_default();
        let lines = [
            (
                self.say("actual", "现状"),
                self.state(&registry.state, &registry.since),
            ),
            (
                self.say("why", "原因"),
                registry.reason.clone().unwrap_or_default(),
            ),
            (
                self.say("transport", "协议"),
                match &registry.transport_reason {
                    Some(why) => format!("{}: {why}", registry.transport),
                    None => self
                        .say(
                            "not chosen yet: no server has answered",
                            "尚未选定：还没有服务器应答",
                        )
                        .to_owned(),
                },
            ),
            (
                self.say("plaintext", "明文"),
                if registry.plaintext {
                    self.say(
                        "the password crosses the network unencrypted; use https:// in registry.servers",
                        "密码未加密地经过网络；请在 registry.servers 中使用 https://",
                    )
                } else {
                    ""
                }
                .to_owned(),
            ),
            (
                self.say("next", "下一步"),
                if registry.state == "connected" {
                    ""
                } else {
                    self.say(
                        "check that the servers in registry.servers run and can be reached from here; it is tried again for ever",
                        "请检查 registry.servers 中的服务器是否运行、从本机是否可达；会一直重试",
                    )
                }
                .to_owned(),
            ),
        ];
        let head = format!("{} {server}", self.say("registry", "注册中心"));
        self.block(head.trim_end(), &lines, &[])
    }

    fn service(&self, service: &Service) -> String {
        let (while_it, while_zh) = if service.ephemeral {
            ("while its probe passes", "探测通过期间")
        } else {
            (
                "until it is taken out, with the health that its probe says",
                "在移除之前，以探测结果作为健康状态（持久实例）",
            )
        };
        let wanted = match self.lang {
            Lang::En => format!(
                "listed as {}@@{} in namespace {} on port {} {while_it}",
                service.group, service.name, service.namespace, service.port
            ),
            Lang::Zh => format!(
                "{while_zh}，以 {}@@{} 注册在命名空间 {}，端口 {}",
                service.group, service.name, service.namespace, service.port
            ),
        };
        let address = match (&service.instance, &service.address_origin) {
            (Some(instance), Some(origin)) => format!("{instance} ({origin})"),
            (Some(instance), None) => instance.clone(),
            _ => String::new(),
        };
        let lines = [
            (self.say("wanted", "期望"), wanted),
            (
                self.say("actual", "现状"),
                self.state(&service.state, &service.since),
            ),
            (
                self.say("why", "原因"),
                service.reason.clone().unwrap_or_default(),
            ),
            (
                self.say("next", "下一步"),
                self.service_advice(&service.state).to_owned(),
            ),
            (self.say("address", "地址"), address),
            (self.say("probe", "探测"), service.probe.clone()),
        ];
        let head = format!("{} {}", self.say("service", "服务"), service.name);
        self.block(&head, &lines, &service.history)
    }

    fn service_advice(&self, state: &str) -> &'static str {
        match state {
            "waiting" => self.say(
                "start the application, or mend its probe (port, host, path) in the descriptor; if it is about the address, see `outrigger explain address`",
                "启动应用，或在描述文件中修正探测（端口、主机、路径）；若与地址有关，见 `outrigger explain address`",
            ),
            "unhealthy" => self.say(
                "look at the application: the registry is told by itself once its probe passes",
                "请检查应用：探测恢复通过后会自动通知注册中心",
            ),
            "refused" => self.say(
                "the registry's words say what it will not have; change the descriptor, or the service in the console; it is asked again slowly meanwhile",
                "原因中是注册中心的原话；请修改描述文件，或在控制台修改该服务；期间会缓慢重试",
            ),
            "unreachable" => self.say(
                "check the registry and the network; the application is not touched, and one answer is enough to be listed again",
                "请检查注册中心与网络；应用不受影响，一旦有应答即恢复注册",
            ),
            "draining" => self.say(
                "wait; if the registry does not confirm, see why above",
                "请等待；若注册中心迟迟不确认，见上面的原因",
            ),
            "drained" => self.say(
                "it stays out until the agent is started again",
                "在代理重新启动之前保持注销",
            ),
            "registering" => self.say(
                "wait a moment; it is under way",
                "请稍候，正在注册",
            ),
            _ => "",
        }
    }

    fn config(&self, config: &Config) -> String {
        let sources: Vec<String> = (config.sources.iter())
            .map(|one| {
                let key = format!("{}/{}/{}", one.namespace, one.group, one.data_id);
                format!("{} ({key})", one.name)
            })
            .collect();
        let wanted = match self.lang {
            Lang::En if !sources.is_empty() => format!(
                "{} is what its template makes of {}",
                config.path,
                sources.join(", ")
            ),
            Lang::Zh if !sources.is_empty() => {
                format!("{} 由模板生成，来源：{}", config.path, sources.join("、"))
            }
            Lang::En => format!(
                "{} holds data id {} of group {} in namespace {}",
                config.path, config.data_id, config.group, config.namespace
            ),
            Lang::Zh => format!(
                "{} 的内容是命名空间 {}、分组 {} 中的 {}",
                config.path, config.namespace, config.group, config.data_id
            ),
        };
        let content = config
            .md5
            .as_ref()
            .map(|md5| format!("md5 {}", Foreign::new(md5.as_str())))
            .unwrap_or_default();
        let lines = [
            (self.say("wanted", "期望"), wanted),
            (
                self.say("actual", "现状"),
                self.state(&config.state, &config.since),
            ),
            (
                self.say("why", "原因"),
                config.reason.clone().unwrap_or_default(),
            ),
            (
                self.say("next", "下一步"),
                self.target_advice(&config.state, config.reason.as_deref())
                    .to_owned(),
            ),
            (self.say("content", "内容"), content),
        ];
        let head = format!("{} {}", self.say("configuration", "配置"), config.data_id);
        self.block(&head, &lines, &config.history)
    }

    /// A reload that only waits needs nobody.
    fn target_advice(&self, state: &str, reason: Option<&str>) -> &'static str {
        let waits = |why: &str| why.contains("the reload is due; ");
        if state == "pending" && reason.is_some_and(waits) {
            return self.say(
                "nothing: it goes on by itself; `at_most_every`, `splay` and `fleet` of the descriptor's reload say when",
                "无需处理：会自动继续；时间由描述文件中 reload 的 `at_most_every`、`splay`、`fleet` 决定",
            );
        }
        self.config_advice(state)
    }

    fn config_advice(&self, state: &str) -> &'static str {
        match state {
            "waiting" => self.say("wait a moment; it is being fetched", "请稍候，正在获取"),
            "pending" => self.say(
                "mend what the reason names; it is tried again by itself, or at once with `outrigger retry PATH`",
                "请修正原因中所指的问题；会自动重试，也可执行 `outrigger retry 路径` 立即重试",
            ),
            "rejected" => self.say(
                "publish a content that is valid, or mend what the reason names (validator, template, decrypt command); until then the file keeps the last good one",
                "请发布有效的内容，或修正原因中指出的校验、模板或解密命令；在此之前文件保持上一份有效内容",
            ),
            "rolled_back" => self.say(
                "the application runs with the content before it: look at its own log, then publish a content it is well with; where it was the application itself, mend that and run `outrigger retry PATH` with the file's path",
                "应用正以上一份内容运行：请查看应用自身的日志，然后发布应用能正常使用的内容；若问题在应用本身，修复后执行 `outrigger retry 路径`（该文件的路径）",
            ),
            "missing" => self.say(
                "publish it, or mend data_id, group or namespace in the descriptor; public is the empty namespace, others go by their id",
                "请发布该配置，或修正描述文件中的 data_id、group、namespace；public 即空命名空间，其他命名空间用其 ID",
            ),
            "unreachable" => self.say(
                "check the registry and the network; the file is not touched meanwhile",
                "请检查注册中心与网络；期间文件保持不变",
            ),
            _ => "",
        }
    }

    fn subscription(&self, list: &Subscription) -> String {
        let wanted = match self.lang {
            Lang::En => format!(
                "{} holds the instances of {}@@{} in namespace {}",
                list.path, list.group, list.service, list.namespace
            ),
            Lang::Zh => format!(
                "{} 的内容是命名空间 {} 中 {}@@{} 的实例列表",
                list.path, list.namespace, list.group, list.service
            ),
        };
        let registry = match (list.listed, self.lang) {
            (None, _) => String::new(),
            (Some(listed), Lang::En) => {
                format!("lists {}, of which {} pass", instances(listed), list.passed)
            }
            (Some(listed), Lang::Zh) => {
                format!("列出 {listed} 个实例，其中 {} 个通过", list.passed)
            }
        };
        let file = match (list.kept, self.lang) {
            (None, _) => String::new(),
            (Some(kept), Lang::En) => instances(kept),
            (Some(kept), Lang::Zh) => format!("{kept} 个实例"),
        };
        let held = list.held.as_ref();
        // Where something else is nearer than that.
        let beside = held.filter(|_| list.state != "held");
        let held_for = beside.map(|held| ago(&held.since, self.now));
        let held_for = match (held_for, self.lang) {
            (None, _) => String::new(),
            (Some(ago), Lang::En) => format!("for {ago}"),
            (Some(ago), Lang::Zh) => format!("已保持 {ago}"),
        };
        let until = held.and_then(|held| held.until.as_deref());
        let next = match (&*list.state, held, self.lang) {
            ("held", Some(_), Lang::En) => format!(
                "{}; if what the registry says is right, `outrigger release subscription {}` takes it now",
                match until {
                    Some(until) => format!(
                        "it is taken at {until} if the registry still says so, and earlier if it lists more"
                    ),
                    None => "it is taken once the registry lists enough".to_owned(),
                },
                list.service
            ),
            ("held", Some(_), Lang::Zh) => format!(
                "{}；若注册中心所列属实，执行 `outrigger release subscription {}` 立即采用",
                match until {
                    Some(until) =>
                        format!("若注册中心仍如此，{until} 起采用；列出更多实例时会提前采用"),
                    None => "注册中心列出足够的实例后即采用".to_owned(),
                },
                list.service
            ),
            ("pending", ..) => self
                .target_advice(&list.state, list.reason.as_deref())
                .to_owned(),
            (state, ..) => self.list_advice(state).to_owned(),
        };
        let lines = [
            (self.say("wanted", "期望"), wanted),
            (
                self.say("actual", "现状"),
                self.state(&list.state, &list.since),
            ),
            (
                self.say("why", "原因"),
                list.reason.clone().unwrap_or_default(),
            ),
            (self.say("next", "下一步"), next),
            (self.say("registry", "注册中心"), registry),
            (self.say("file", "文件"), file),
            (self.say("held", "保持"), held_for),
            (self.say("left out", "未采用"), list.left_out.join("; ")),
        ];
        let head = format!("{} {}", self.say("subscription", "订阅"), list.service);
        self.block(&head, &lines, &list.history)
    }

    fn list_advice(&self, state: &str) -> &'static str {
        match state {
            "rejected" => self.say(
                "mend the template, the validator or the descriptor (the reason has its words); until then the file keeps what it has",
                "请修正模板、校验命令或描述文件（见原因）；在此之前文件保持不变",
            ),
            "held" => self.say(
                "if what the registry says is right, `outrigger release subscription NAME` takes it now",
                "若注册中心所列属实，执行 `outrigger release subscription 名称` 立即采用",
            ),
            "missing" => "",
            other => self.config_advice(other),
        }
    }

    fn addresses(&self, considered: &[Considered]) -> String {
        let heads = [
            self.say("ADDRESS", "地址"),
            self.say("FROM", "来源"),
            self.say("VERDICT", "结论"),
        ];
        let shown: Vec<[String; 3]> = considered
            .iter()
            .map(|c| [c.ip.clone(), c.origin.clone(), c.verdict.clone()])
            .collect();
        let width = |at: usize| {
            let cells = shown.iter().filter_map(|row| row.get(at));
            cells
                .map(|cell| super::text::columns(cell))
                .chain(heads.get(at).map(|head| super::text::columns(head)))
                .max()
                .unwrap_or(0)
                + 2
        };
        let (first, second) = (width(0), width(1));
        let [address, from, verdict] = heads;
        let head = format!("{}{}{verdict}", pad(address, first), pad(from, second));
        let mut out = format!("{}\n", self.paint.bold(&head));
        for [ip, origin, verdict] in &shown {
            out += &format!("{}{}{verdict}\n", pad(ip, first), pad(origin, second));
        }
        if shown.is_empty() {
            out += self.say("no address at all\n", "没有任何地址\n");
        }
        out
    }
}

fn instances(count: usize) -> String {
    match count {
        1 => "1 instance".to_owned(),
        count => format!("{count} instances"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::tests::{now, sample};

    fn said(lang: Lang, what: Option<&Subject>) -> String {
        let voice = Voice {
            lang,
            paint: Paint(false),
            now: now(),
        };
        voice.about(&sample(), what).unwrap()
    }

    #[test]
    fn a_service_in_english() {
        let what = Subject::Service {
            name: "billing".to_owned(),
        };
        insta::assert_snapshot!(said(Lang::En, Some(&what)), @r#"
service billing
  wanted    listed as PAYMENTS@@billing in namespace public on port 9090 while its probe passes
  actual    unhealthy for 40 s
  why       nothing listens on 127.0.0.1:9090
  next      look at the application: the registry is told by itself once its probe passes
  address   10.0.3.7:9090 (route to nacos-1:8848)
  probe     tcp refused x 3
"#);
    }

    #[test]
    fn a_list_that_is_held() {
        let what = Subject::Subscription {
            name: "payments".to_owned(),
        };
        insta::assert_snapshot!(said(Lang::En, Some(&what)), @r#"
subscription payments
  wanted    /etc/nginx/upstreams/payments.conf holds the instances of DEFAULT_GROUP@@payments in
            namespace public
  actual    held for 9 s
  why       the registry lists 1 instance, the file has 7; the guard allows a loss of 60 % of 7
  next      it is taken at 2026-11-22T07:20:00.000Z if the registry still says so, and earlier if it
            lists more; if what the registry says is right, `outrigger release subscription
            payments` takes it now
  registry  lists 2 instances, of which 1 pass
  file      7 instances
  left out  10.0.3.9:8080 is unhealthy
"#);
    }

    #[test]
    fn everything_in_chinese() {
        insta::assert_snapshot!(said(Lang::Zh, None), @r#"
注册中心 http://nacos-1:8848
  现状      connected，已持续 3 d
  协议      http: Nacos 1.4.8 has no gRPC

服务 orders
  期望      探测通过期间，以 DEFAULT_GROUP@@orders 注册在命名空间 public，端口 8080
  现状      registered，已持续 2 h
  地址      10.0.3.7:8080 (route to nacos-1:8848)
  探测      tcp ok, 0.2 ms
  经过
    05:20:00    registered

服务 billing
  期望      探测通过期间，以 PAYMENTS@@billing 注册在命名空间 public，端口 9090
  现状      unhealthy，已持续 40 s
  原因      nothing listens on 127.0.0.1:9090
  下一步    请检查应用：探测恢复通过后会自动通知注册中心
  地址      10.0.3.7:9090 (route to nacos-1:8848)
  探测      tcp refused x 3

配置 orders.yaml
  期望      /run/orders/orders.yaml 的内容是命名空间 public、分组 PAYMENTS 中的 orders.yaml
  现状      rejected，已持续 12 min
  原因      not valid yaml: line 2, column 11: a flow sequence is not closed
  下一步    请发布有效的内容，或修正原因中指出的校验、模板或解密命令；在此之前文件保持上一份有效内容

订阅 payments
  期望      /etc/nginx/upstreams/payments.conf 的内容是命名空间 public 中 DEFAULT_GROUP@@payments
            的实例列表
  现状      held，已持续 9 s
  原因      the registry lists 1 instance, the file has 7; the guard allows a loss of 60 % of 7
  下一步    若注册中心仍如此，2026-11-22T07:20:00.000Z
            起采用；列出更多实例时会提前采用；若注册中心所列属实，执行 `outrigger release
            subscription payments` 立即采用
  注册中心  列出 2 个实例，其中 1 个通过
  文件      7 个实例
  未采用    10.0.3.9:8080 is unhealthy
"#);
    }

    #[test]
    fn every_state_that_is_not_well_has_advice_in_both_languages() {
        use crate::agent::view::{ServiceState as S, TargetState as T};
        for lang in [Lang::En, Lang::Zh] {
            let voice = Voice {
                lang,
                paint: Paint(false),
                now: now(),
            };
            for state in [
                S::Waiting,
                S::Registering,
                S::Unhealthy,
                S::Draining,
                S::Drained,
                S::Refused,
                S::Unreachable,
            ] {
                assert!(!voice.service_advice(state.word()).is_empty(), "{state:?}");
            }
            for state in [T::Waiting, T::Pending, T::Rejected, T::Held, T::Unreachable] {
                assert!(!voice.list_advice(state.word()).is_empty(), "{state:?}");
            }
            for state in [
                T::Waiting,
                T::Pending,
                T::Rejected,
                T::Missing,
                T::Unreachable,
            ] {
                assert!(!voice.config_advice(state.word()).is_empty(), "{state:?}");
            }
        }
    }
}
