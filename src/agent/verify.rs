//! Asks an application whether it is well with the files that it was told of, again and again until it is or its time is over.

use crate::backoff::{Backoff, Pace};
use crate::descriptor::spec::{Verify, VerifyKind};
use crate::nacos::wire;
use std::time::Duration;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::commands::Commands;

/// Between two tries: an application that loads its files is ready after a moment, or after many.
const PACE: Pace = Pace {
    base: Duration::from_millis(200),
    cap: Duration::from_secs(2),
    floor: Duration::from_millis(50),
};
/// So much of a body is looked at.
const BODY: usize = 64 * 1024;

/// Says how it was found to be well, or why it was not; no sentence has a URL, which may hold a secret, nor a body.
pub(super) async fn verify(
    verify: &Verify,
    commands: &Commands,
    seed: u64,
) -> Result<String, String> {
    let end = Instant::now() + verify.within;
    let mut backoff = Backoff::new(PACE, seed);
    loop {
        let once = try_once(verify, commands);
        let why = match timeout_at(end, once).await {
            Ok(Ok(how)) => return Ok(how),
            Ok(Err(why)) => why,
            Err(_) => format!("{}: no answer", verify.kind.word()),
        };
        let wait = backoff.next_wait();
        if Instant::now() + wait >= end {
            let (tries, within) = (backoff.failures(), verify.within);
            let tries = if tries == 1 {
                "once".to_owned()
            } else {
                format!("{tries} times")
            };
            return Err(format!("{why} (asked {tries} within {within:?})"));
        }
        sleep(wait).await;
    }
}

async fn try_once(verify: &Verify, commands: &Commands) -> Result<String, String> {
    match &verify.kind {
        VerifyKind::Tcp(address) => {
            match timeout(verify.timeout, TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(format!("verified: {address} takes connections")),
                Ok(Err(error)) => Err(format!("tcp {address}: {error}")),
                Err(_) => Err(format!(
                    "tcp {address}: no answer within {:?}",
                    verify.timeout
                )),
            }
        }
        VerifyKind::Http { url, status, body } => {
            match timeout(
                verify.timeout,
                get(url, *status, body.as_deref(), verify.timeout),
            )
            .await
            {
                Ok(outcome) => outcome,
                Err(_) => Err(format!("http: no answer within {:?}", verify.timeout)),
            }
        }
        VerifyKind::Exec(command) => {
            commands.run(command, &command.argv).await?;
            Ok("verified by a command".to_owned())
        }
    }
}

async fn get(
    url: &str,
    status: Option<u16>,
    body: Option<&str>,
    connect: Duration,
) -> Result<String, String> {
    let client = wire::http_client(connect, url.starts_with("https:"))
        .build()
        .map_err(|error| format!("no HTTP client can be made: {}", error.without_url()))?;
    let mut answer = client.get(url).send().await.map_err(|error| {
        if error.is_connect() {
            "http: no connection; is the application running?".to_owned()
        } else {
            format!("http: {}", error.without_url())
        }
    })?;
    let said = answer.status();
    let is_well = status.map_or(said.is_success(), |status| said.as_u16() == status);
    if !is_well {
        let wanted = status.map_or("2xx".to_owned(), |status| status.to_string());
        return Err(format!("http: answered {}, not {wanted}", said.as_u16()));
    }
    let Some(text) = body else {
        return Ok(format!("verified: answered {}", said.as_u16()));
    };
    let mut found = Vec::new();
    while found.len() < BODY {
        match answer.chunk().await {
            Ok(Some(chunk)) => found.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(format!("http: {}", error.without_url())),
        }
    }
    found.truncate(BODY);
    if String::from_utf8_lossy(&found).contains(text) {
        Ok(format!("verified: answered {} with `body`", said.as_u16()))
    } else {
        Err(format!(
            "http: answered {}, but the first {} bytes do not contain `body`",
            said.as_u16(),
            found.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::spec::Command;
    use crate::tasks::Tasks;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    fn asking(kind: VerifyKind, within: u64) -> Verify {
        Verify {
            kind,
            timeout: Duration::from_secs(5),
            within: Duration::from_millis(within),
        }
    }

    /// Answers one request after the other; the last answer for ever.
    async fn application(answers: &'static [&'static str]) -> (String, Tasks) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "http://{}/health?token=secret",
            listener.local_addr().unwrap()
        );
        let tasks = Tasks::new();
        tasks.spawn("application", async move {
            let last = answers[answers.len() - 1];
            for answer in answers.iter().chain(std::iter::repeat(&last)) {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let count = socket.read(&mut request).await.unwrap();
                assert!(request[..count].starts_with(b"GET /health?"));
                let (status, body) = answer.split_once('|').unwrap();
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        (url, tasks)
    }

    #[tokio::test]
    async fn it_is_asked_until_it_is_well() {
        let (url, _tasks) = application(&["503 No|", "200 OK|loading", "200 OK|I am UP"]).await;
        let http = VerifyKind::Http {
            url,
            status: None,
            body: Some("UP".to_owned()),
        };
        let said = verify(&asking(http, 20_000), &Commands::new(1), 1).await;
        assert_eq!(said.as_deref(), Ok("verified: answered 200 with `body`"));
    }

    #[tokio::test]
    async fn when_its_time_is_over_the_last_reason_is_told_without_the_address() {
        let (url, _tasks) = application(&["500 No|secret"]).await;
        let http = |status, body: Option<&str>| VerifyKind::Http {
            url: url.clone(),
            status,
            body: body.map(str::to_owned),
        };
        let commands = Commands::new(1);
        let why = verify(&asking(http(None, None), 10), &commands, 1).await;
        let why = why.unwrap_err();
        assert!(
            why.starts_with("http: answered 500, not 2xx (asked once within 10ms"),
            "{why}"
        );
        let well = verify(&asking(http(Some(500), None), 5_000), &commands, 1).await;
        assert_eq!(well.as_deref(), Ok("verified: answered 500"));
        let why = verify(&asking(http(Some(500), Some("UP")), 10), &commands, 1).await;
        let why = why.unwrap_err();
        assert!(!why.contains("secret"), "{why}");
    }

    #[tokio::test]
    async fn a_port_and_a_command_can_be_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let commands = Commands::new(1);
        let tcp = || VerifyKind::Tcp(address);
        assert!(verify(&asking(tcp(), 5_000), &commands, 1).await.is_ok());
        drop(listener);
        let why = verify(&asking(tcp(), 300), &commands, 1).await.unwrap_err();
        assert!(why.contains("refused"), "{why}");
        let exec = |word: &str| {
            VerifyKind::Exec(Command {
                argv: vec![word.to_owned()],
                timeout: Duration::from_secs(5),
                run_as: None,
            })
        };
        assert!(
            verify(&asking(exec("true"), 5_000), &commands, 1)
                .await
                .is_ok()
        );
        let why = verify(&asking(exec("false"), 400), &commands, 1).await;
        assert!(why.unwrap_err().starts_with("false: exit status 1"));
    }
}
