//! What goes wrong on request.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use bitbucket_sim::{Fault, FaultKind, Simulator, World};
use serde_json::json;

use crate::support::*;

async fn with_fault(kind: FaultKind) -> Result<(Simulator, String), Box<dyn std::error::Error>> {
    let simulator = started(World::example()).await?;
    let (access, _) = tokens(&simulator, "ann").await?;
    simulator.clear_requests();
    simulator.with(|world| world.fault(Fault::new("user", kind).times(1)));
    Ok((simulator, access))
}

/// The fault is over after one request, and touched no other endpoint.
async fn is_well(simulator: &Simulator, access: &str) -> Outcome {
    assert_eq!(api(simulator, access, "/2.0/user").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn a_status_comes_with_a_page() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Status(503)).await?;
    assert_eq!(api(&simulator, &access, "/2.0/user/emails").await?.status, 200);
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert!(reply.status == 503 && reply.is_html());
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_rate_limit_comes_as_json_or_text_with_or_without_a_time() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::RateLimited { retry_after: Some(7), json: true }).await?;
    simulator.with(|world| {
        world.fault(Fault::new("*", FaultKind::RateLimited { retry_after: None, json: false }).times(1));
    });
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("7")));
    let text = "Rate limit for this resource has been exceeded";
    assert_eq!(reply.json()?["error"]["message"], text);
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!((reply.status, reply.header("retry-after"), reply.body.as_str()), (429, None, text));
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_slow_answer_is_right_and_late() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Slow(Duration::from_millis(120))).await?;
    let before = Instant::now();
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert!(reply.status == 200 && before.elapsed() >= Duration::from_millis(120));
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_dropped_connection_has_no_answer_and_is_logged() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Drop).await?;
    let error = api(&simulator, &access, "/2.0/user").await.err().ok_or("an answer")?;
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    assert_eq!(
        simulator.requests().first().map(|logged| (logged.status, logged.endpoint)),
        Some((0, "user"))
    );
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_truncated_body_is_half_of_it() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Truncated).await?;
    let half = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!(half.status, 200);
    assert!(half.json().is_err());
    let whole = api(&simulator, &access, "/2.0/user").await?;
    assert!(whole.body.starts_with(&half.body) && half.body.len() == whole.body.len() / 2);
    Ok(())
}

#[tokio::test]
async fn a_page_can_come_instead_of_json() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Html200).await?;
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert!(reply.status == 200 && reply.is_html() && reply.json().is_err());
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn an_endpoint_can_be_gone() -> Outcome {
    let (simulator, access) = with_fault(FaultKind::Gone).await?;
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!(reply.status, 410);
    assert_eq!(reply.json()?["error"]["message"], "CHANGE-2770 - Functionality has been deprecated");
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_scope_can_be_missing() -> Outcome {
    let (required, granted) = (vec!["account".to_owned()], vec!["team".to_owned()]);
    let (simulator, access) = with_fault(FaultKind::MissingScope { required, granted }).await?;
    let reply = api(&simulator, &access, "/2.0/user").await?;
    assert_eq!(reply.status, 403);
    assert_eq!(reply.json()?["error"]["detail"], json!({"required": ["account"], "granted": ["team"]}));
    is_well(&simulator, &access).await
}

#[tokio::test]
async fn a_lost_answer_has_rotated_the_refresh_token() -> Outcome {
    let simulator = started(World::example()).await?;
    let (_, refresh_token) = tokens(&simulator, "ann").await?;
    simulator.with(|world| world.fault(Fault::new("token.refresh", FaultKind::LostAnswer).times(1)));
    let error = refresh(&simulator, &refresh_token).await.err().ok_or("an answer")?;
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    let last = simulator.requests().pop().ok_or("no request")?;
    assert_eq!((last.status, last.account.as_deref()), (0, Some("ann")));
    assert_eq!(refresh(&simulator, &refresh_token).await?.status, 400, "the rotation happened");
    Ok(())
}

#[tokio::test]
async fn a_drop_at_the_token_endpoint_has_not_rotated_it() -> Outcome {
    let simulator = started(World::example()).await?;
    let (_, refresh_token) = tokens(&simulator, "ann").await?;
    simulator.with(|world| world.fault(Fault::new("token.refresh", FaultKind::Drop).times(1)));
    assert!(refresh(&simulator, &refresh_token).await.is_err());
    assert_eq!(refresh(&simulator, &refresh_token).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_two_uses_of_the_token_endpoint_fail_apart() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| world.fault(Fault::new("token.refresh", FaultKind::Status(500))));
    let (_, refresh_token) = tokens(&simulator, "ann").await?;
    for _ in 0..2 {
        assert_eq!(refresh(&simulator, &refresh_token).await?.status, 500, "lasting");
    }
    simulator.with(World::clear_faults);
    assert_eq!(refresh(&simulator, &refresh_token).await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn no_fault_touches_the_page_and_the_controls() -> Outcome {
    let simulator = started(World::example()).await?;
    simulator.with(|world| world.fault(Fault::new("*", FaultKind::Drop)));
    for target in ["/", "/_sim/style.css", "/_sim/world"] {
        assert_eq!(get(&simulator, target).await?.status, 200, "{target}");
    }
    assert!(get(&simulator, &authorize(&[])).await.is_err());
    assert_eq!(simulator.requests().len(), 1);
    Ok(())
}
