//! Starting, stopping, and the log.

use bitbucket_sim::{ENDPOINTS, World};

use crate::support::*;

#[tokio::test]
async fn it_stops_when_dropped() -> Outcome {
    let simulator = started(World::example()).await?;
    let address = simulator.address();
    assert_eq!(simulator.url(), format!("http://{address}"));
    assert_eq!(simulator.api_url(), format!("http://{address}/2.0"));
    assert_eq!(send(address, "GET", "/", &[], "").await?.status, 200);
    drop(simulator);
    // The socket is closed by the runtime, soon.
    for _ in 0..200 {
        if tokio::net::TcpStream::connect(address).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Err("still there".into())
}

#[tokio::test]
async fn two_do_not_know_each_other_nor_each_others_tokens() -> Outcome {
    let (one, two) = (started(World::example()).await?, started(World::example()).await?);
    let (access, _) = tokens(&one, "ann").await?;
    tokens(&two, "ann").await?;
    assert_eq!(api(&one, &access, "/2.0/user").await?.status, 200);
    assert_eq!(api(&two, &access, "/2.0/user").await?.status, 401);
    one.with(|world| world.remove_member("ben", "acme"))?;
    assert!(two.with(|world| world.membership("ben", "acme").is_ok()));
    Ok(())
}

#[tokio::test]
async fn every_request_is_logged_and_counted() -> Outcome {
    let simulator = started(World::example()).await?;
    let (access, refresh_token) = tokens(&simulator, "ann").await?;
    refresh(&simulator, &refresh_token).await?;
    for target in [
        "/2.0/user",
        "/2.0/user/emails",
        "/2.0/user/workspaces?page=1",
        "/2.0/user/workspaces/acme/permission",
        "/2.0/user/workspaces/acme/permissions/repositories",
        "/2.0/workspaces/acme",
        "/2.0/teams",
    ] {
        api(&simulator, &access, target).await?;
    }
    get(&simulator, "/").await?;
    for endpoint in ENDPOINTS {
        assert_eq!(simulator.count(endpoint), 1, "{endpoint}");
    }
    let logged = simulator.requests();
    assert!(logged.iter().all(|it| it.account.as_deref() == Some("ann") || it.endpoint == "other"));
    let workspaces = logged.iter().find(|it| it.endpoint == "workspaces").ok_or("not logged")?;
    assert_eq!(workspaces.path, "/2.0/user/workspaces");
    assert_eq!(workspaces.query.as_deref(), Some("page=1"));
    assert_eq!((workspaces.method.as_str(), workspaces.status), ("GET", 200));
    simulator.clear_requests();
    assert!(simulator.requests().is_empty());
    Ok(())
}
