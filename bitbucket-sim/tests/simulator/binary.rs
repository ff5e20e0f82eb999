//! The program.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::*;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bitbucket-sim"));
    command.args(arguments);
    command
}

/// Exit code and stderr of a program that should end by itself; it is stopped when it serves instead.
fn ended(arguments: &[&str]) -> Result<(Option<i32>, String), Box<dyn std::error::Error>> {
    let mut child = program(arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let patience = Instant::now() + Duration::from_secs(10);
    while child.try_wait()?.is_none() {
        if Instant::now() > patience {
            child.kill()?;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let Output { status, stderr, .. } = child.wait_with_output()?;
    Ok((status.code(), String::from_utf8(stderr)?))
}

#[test]
fn it_says_what_is_wrong_and_ends_with_a_code_that_tells() -> Outcome {
    for (arguments, code, text) in [
        (vec!["--listen", "0.0.0.0:7990"], 1, "use a loopback address such as 127.0.0.1:7990"),
        (vec!["--callback", "/callback"], 1, "--callback `/callback` is not a full URL"),
        (vec!["--regime", "ancient"], 2, "possible values: new, legacy"),
        (vec!["--listen", "localhost"], 2, "--listen"),
        (vec!["--nonsense"], 2, "--nonsense"),
    ] {
        let (ended, stderr) = ended(&arguments)?;
        assert_eq!(ended, Some(code), "{arguments:?}");
        assert!(stderr.contains(text), "{arguments:?}: {stderr}");
    }
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    let (code, stderr) = ended(&["--listen", &address])?;
    assert_eq!(code, Some(3));
    assert!(stderr.starts_with(&format!("bitbucket-sim: cannot listen on {address}: ")), "{stderr}");
    Ok(())
}

#[tokio::test]
async fn it_serves_the_demonstration_with_the_client_that_was_asked_for() -> Outcome {
    let mut child = program(&["--listen", "127.0.0.1:0", "--client-id", "mine", "--client-secret", "s3cret"])
        .args(["--callback", "http://app.example/cb", "--regime", "legacy"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("no stdout")?).read_line(&mut line)?;
    let url = line.strip_prefix("pretend Bitbucket at http://").and_then(|rest| rest.split('/').next());
    let outcome = exercised(url.unwrap_or_default()).await;
    child.kill()?;
    child.wait()?;
    outcome
}

async fn exercised(address: &str) -> Outcome {
    let address = address.parse()?;
    let target = "/site/oauth2/authorize?client_id=mine&response_type=code";
    let reply = send(address, "POST", target, &[FORM], "user=ann").await?;
    let code = reply.sent_back("code").ok_or("no code")?;
    assert!(reply.header("location").is_some_and(|to| to.starts_with("http://app.example/cb?")));
    let body = form(&[
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("client_id", "mine"),
        ("client_secret", "s3cret"),
    ]);
    let reply = send(address, "POST", "/site/oauth2/access_token", &[FORM], &body).await?;
    assert_eq!(reply.json()?["scopes"], "email account");
    Ok(())
}
