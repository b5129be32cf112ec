//! The story, told with nacos-sdk: gRPC and tokio.

use nacos_sdk::api::config::{
    ConfigChangeListener, ConfigResponse, ConfigService, ConfigServiceBuilder,
};
use nacos_sdk::api::error::Error;
use nacos_sdk::api::naming::{
    NamingChangeEvent, NamingEventListener, NamingService, NamingServiceBuilder, ServiceInstance,
};
use nacos_sdk::api::props::ClientProps;
use std::collections::HashMap;
use std::env::var;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const GROUP: &str = "INTEROP";

/// What the listeners were told last.
#[derive(Default, Debug)]
struct Heard {
    hosts: Mutex<Vec<String>>,
    content: Mutex<String>,
}

impl NamingEventListener for Heard {
    fn event(&self, event: Arc<NamingChangeEvent>) {
        *self.hosts.lock().unwrap() = addresses(event.instances.as_deref().unwrap_or_default());
    }
}

impl ConfigChangeListener for Heard {
    fn notify(&self, told: ConfigResponse) {
        *self.content.lock().unwrap() = told.content().clone();
    }
}

impl Heard {
    fn of(&self, address: &str) -> bool {
        self.hosts.lock().unwrap().iter().any(|it| it == address)
    }

    fn reads(&self, content: &str) -> bool {
        *self.content.lock().unwrap() == content
    }
}

struct Story {
    naming: NamingService,
    config: ConfigService,
    heard: Arc<Heard>,
    run: String,
}

impl Story {
    async fn list(&self) -> Outcome {
        let web = ServiceInstance {
            weight: 2.5,
            metadata: HashMap::from([
                ("version".into(), "1.4".into()),
                ("zone".into(), "a b&c".into()),
            ]),
            ..instance("10.1.0.1", 8080)
        };
        self.naming
            .register_instance(self.web(), None, web.clone())
            .await?;
        eventually(async || {
            let found = self.naming.get_all_instances(self.web(), None, vec![], false).await.unwrap_or_default();
            matches!(&found[..], [it] if it.ip_and_port() == "10.1.0.1:8080" && it.weight == 2.5 && it.healthy
                && it.cluster_name == web.cluster_name && it.metadata == web.metadata)
        })
        .await?;
        please(&format!(
            "expect {} 10.1.0.1:8080 weight=2.5 clusterName=BLUE version=1.4",
            self.web()
        ))
    }

    async fn agent(&self) -> Outcome {
        let orders = var("ORDERS")?;
        eventually(async || self.listed("orders").await.contains(&orders)).await
    }

    async fn told(&self) -> Outcome {
        self.naming
            .subscribe(self.web(), None, vec![], self.heard.clone())
            .await?;
        please(&format!("add {} 10.2.0.1:9090", self.web()))?;
        eventually(async || self.heard.of("10.1.0.1:8080") && self.heard.of("10.2.0.1:9090"))
            .await?;
        please(&format!("remove {} 10.2.0.1:9090", self.web()))?;
        eventually(async || self.heard.of("10.1.0.1:8080") && !self.heard.of("10.2.0.1:9090")).await
    }

    async fn batch(&self) -> Outcome {
        let pair = format!("pair-{}", self.run);
        let both = vec![instance("10.1.0.2", 8081), instance("10.1.0.3", 8082)];
        self.naming
            .batch_register_instance(pair.clone(), None, both)
            .await?;
        please(&format!("expect {pair} 10.1.0.2:8081"))?;
        please(&format!("expect {pair} 10.1.0.3:8082"))?;
        eventually(async || self.listed(&pair).await == ["10.1.0.2:8081", "10.1.0.3:8082"]).await
    }

    async fn config(&self) -> Outcome {
        let missing = self
            .config
            .get_config(format!("missing-{}", self.run), GROUP.into())
            .await;
        if !matches!(missing, Err(Error::ConfigNotFound(_))) {
            return Err(format!("what is missing is {missing:?}").into());
        }
        self.publish(&self.app(), "greeting: 你好").await?;
        please(&format!("content {} greeting: 你好", self.app()))?;
        let found = self.config.get_config(self.app(), GROUP.into()).await?;
        if found.content() != "greeting: 你好" {
            return Err(format!("read {found:?}").into());
        }
        self.config
            .add_listener(self.app(), GROUP.into(), self.heard.clone())
            .await?;
        // The library tells nobody what it reads first, and that it reads on its own time.
        tokio::time::sleep(Duration::from_secs(1)).await;
        for change in ["greeting: bonjour", "greeting: hola"] {
            please(&format!("publish {} {change}", self.app()))?;
            eventually(async || self.heard.reads(change)).await?;
        }
        Ok(())
    }

    async fn cas(&self) -> Outcome {
        let data_id = format!("cas-{}", self.run);
        let publish = async |md5: &str| {
            let two = self.config.publish_config_cas(
                data_id.clone(),
                GROUP.into(),
                "two".into(),
                None,
                md5.into(),
            );
            two.await.unwrap_or(false)
        };
        self.publish(&data_id, "one").await?;
        please(&format!("content {data_id} one"))?;
        // The MD5 of something else, then that of `one`.
        if publish("6c7ba9c5a141421e1c03cb9807c97c74").await {
            return Err("a wrong casMd5 was taken".into());
        }
        please(&format!("content {data_id} one"))?;
        if !publish("f97c5d29941bfb1b2fdab0874906ab82").await {
            return Err("the right casMd5 was refused".into());
        }
        please(&format!("content {data_id} two"))
    }

    /// The listener is not called for a removal, so only reading is looked at.
    async fn gone(&self) -> Outcome {
        let other = format!("other-{}", self.run);
        self.publish(&other, "here").await?;
        please(&format!("content {other} here"))?;
        self.config
            .remove_config(other.clone(), GROUP.into())
            .await?;
        eventually(async || {
            let found = self.config.get_config(other.clone(), GROUP.into()).await;
            matches!(found, Err(Error::ConfigNotFound(_)))
        })
        .await
    }

    async fn kept(&self) -> Outcome {
        let name = format!("vault-{}", self.run);
        let vault = ServiceInstance {
            ephemeral: false,
            ..instance("10.1.0.4", 8200)
        };
        self.naming
            .register_instance(name.clone(), None, vault.clone())
            .await?;
        please(&format!("expect {name} 10.1.0.4:8200 ephemeral=false"))?;
        self.naming
            .deregister_instance(name.clone(), None, vault)
            .await?;
        please(&format!("gone {name} 10.1.0.4:8200"))
    }

    async fn left(&self) -> Outcome {
        self.naming
            .deregister_instance(self.web(), None, instance("10.1.0.1", 8080))
            .await?;
        please(&format!("gone {} 10.1.0.1:8080", self.web()))?;
        eventually(async || self.listed(&self.web()).await.is_empty()).await
    }

    /// The registry is killed and comes back empty: what the library says again by itself, and what it still hears.
    async fn back(&self) -> Outcome {
        self.naming
            .register_instance(self.web(), None, instance("10.1.0.1", 8080))
            .await?;
        self.publish(&self.app(), "greeting: hello").await?;
        eventually(async || self.heard.reads("greeting: hello") && self.heard.of("10.1.0.1:8080"))
            .await?;
        please("restart")?;
        please(&format!("expect {} 10.1.0.1:8080", self.web()))?;
        please(&format!("add {} 10.2.0.2:9090", self.web()))?;
        eventually(async || self.heard.of("10.2.0.2:9090")).await?;
        please(&format!("publish {} greeting: salut", self.app()))?;
        eventually(async || self.heard.reads("greeting: salut")).await
    }

    fn web(&self) -> String {
        format!("web-{}", self.run)
    }

    fn app(&self) -> String {
        format!("app-{}", self.run)
    }

    async fn listed(&self, service: &str) -> Vec<String> {
        addresses(
            &self
                .naming
                .get_all_instances(service.into(), None, vec![], false)
                .await
                .unwrap_or_default(),
        )
    }

    async fn publish(&self, data_id: &str, content: &str) -> Outcome {
        match self
            .config
            .publish_config(data_id.into(), GROUP.into(), content.into(), None)
            .await?
        {
            true => Ok(()),
            false => Err("not published".into()),
        }
    }
}

fn instance(ip: &str, port: i32) -> ServiceInstance {
    ServiceInstance {
        ip: ip.into(),
        port,
        cluster_name: Some("BLUE".into()),
        ..Default::default()
    }
}

fn addresses(instances: &[ServiceInstance]) -> Vec<String> {
    let mut found: Vec<_> = instances.iter().map(ServiceInstance::ip_and_port).collect();
    found.sort();
    found
}

/// After an outage the library asks for its configurations only once a minute.
async fn eventually(condition: impl AsyncFn() -> bool) -> Outcome {
    let end = Instant::now() + Duration::from_secs(75);
    while !condition().await {
        if Instant::now() > end {
            return Err("not within 75 s".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Asks the runner, who stands outside with plain HTTP, to do or to see something.
fn please(deed: &str) -> Outcome {
    println!("please {deed}");
    let mut answer = String::new();
    tokio::task::block_in_place(|| std::io::stdin().read_line(&mut answer))?;
    match answer.trim() {
        "yes" => Ok(()),
        why => Err(format!("{deed}: {why}").into()),
    }
}

#[tokio::main]
async fn main() -> Outcome {
    let props = || {
        ClientProps::new()
            .server_addr(var("SERVER").unwrap_or_default())
            .namespace("")
            .app_name("interop")
            .auth_username(var("USER_NAME").unwrap_or_default())
            .auth_password(var("PASS_WORD").unwrap_or_default())
    };
    let (mut naming, mut config) = (
        NamingServiceBuilder::new(props()),
        ConfigServiceBuilder::new(props()),
    );
    if var("USER_NAME").is_ok() {
        naming = naming.enable_auth_plugin_http();
        config = config.enable_auth_plugin_http();
    }
    let story = Story {
        naming: naming.build().await?,
        config: config.build().await?,
        heard: Arc::default(),
        run: var("RUN")?,
    };
    let mut failed = false;
    let mut step = |name: &str, outcome: Outcome| match outcome {
        Ok(()) => println!("ok {name}"),
        Err(why) => {
            failed = true;
            println!("FAIL {name}: {why}; {:?}", story.heard);
        }
    };
    step("list", story.list().await);
    step("agent", story.agent().await);
    step("told", story.told().await);
    step("batch", story.batch().await);
    step("config", story.config().await);
    step("cas", story.cas().await);
    step("gone", story.gone().await);
    step("kept", story.kept().await);
    step("left", story.left().await);
    step("back", story.back().await);
    please(&format!("kill {} 10.1.0.1:8080", story.web()))?;
    if failed {
        Err("a step failed".into())
    } else {
        Ok(())
    }
}
