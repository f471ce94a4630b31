//! Tokens against an API server that answers from a table and counts.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

#[derive(Debug, Default)]
struct Table {
    asked: AtomicUsize,
    down: AtomicBool,
}

impl TokenReviewer for Table {
    fn review<'a>(&'a self, token: &'a str, audience: &'a str) -> Reviewed<'a> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let name = token.split('.').next().unwrap_or_default();
        let review = Review {
            authenticated: name != "bad",
            username: format!("system:serviceaccount:kubelb:{name}"),
            audiences: if name == "other" {
                vec![]
            } else {
                vec![audience.to_owned()]
            },
            error: "invalid".to_owned(),
        };
        let answer = if self.down.load(Ordering::Relaxed) {
            Err(ReviewError("no route".to_owned()))
        } else {
            Ok(review)
        };
        Box::pin(async move { answer })
    }
}

fn tokens(table: &Arc<Table>) -> Tokens {
    let accounts = ServiceAccounts::parse(
        &["kubelb/agent".to_owned(), "kubelb/other".to_owned()],
        &["kubelb/envoy=a,b".to_owned(), "kubelb/global=*".to_owned()],
    );
    Tokens::new(Arc::clone(table) as Arc<dyn TokenReviewer>, accounts.unwrap())
}

fn token(name: &str, end: u64) -> String {
    let payload = URL_SAFE_NO_PAD.encode(format!("{{\"exp\":{end}}}"));
    format!("{name}.{payload}.signature")
}

#[tokio::test]
async fn each_service_account_has_its_own_scope() {
    let tokens = tokens(&Arc::default());
    let identity = tokens.authenticate(&token("agent", 600), NOW).await.unwrap();
    assert_eq!(identity.scope, Scope::Agent);
    assert_eq!(identity.subject, "system:serviceaccount:kubelb:agent");
    assert_eq!(identity.expires, NOW + Duration::from_secs(600));
    let identity = tokens.authenticate(&token("envoy", 600), NOW).await.unwrap();
    let listed = Tenants::Only(["a", "b"].map(Arc::from).into());
    assert_eq!(identity.scope, Scope::Fleet(listed));
    let identity = tokens.authenticate(&token("global", 600), NOW).await.unwrap();
    assert_eq!(identity.scope, Scope::Fleet(Tenants::All));
}

#[tokio::test]
async fn others_are_refused_with_the_reason() {
    let tokens = tokens(&Arc::default());
    for (name, reason) in [("bad", "token"), ("other", "token"), ("ccm", "stranger")] {
        let refusal = tokens.authenticate(&token(name, 600), NOW).await.unwrap_err();
        assert_eq!(refusal.reason(), reason, "{name}: {refusal}");
    }
    assert_eq!(tokens.authenticate("", NOW).await, Err(Refusal::Malformed));
}

#[tokio::test]
async fn answers_are_remembered_for_a_while_and_never_beyond_the_tokens_end() {
    let table = Arc::new(Table::default());
    let tokens = tokens(&table);
    let agent = token("agent", 30);
    for _ in 0..3 {
        tokens.authenticate(&agent, NOW).await.unwrap();
    }
    assert_eq!(table.asked.load(Ordering::Relaxed), 1);
    let late = tokens.authenticate(&agent, NOW + Duration::from_secs(30)).await;
    assert_eq!(late, Err(Refusal::Expired));
    assert_eq!(
        table.asked.load(Ordering::Relaxed),
        1,
        "remembered, and known to have ended"
    );
    let later = NOW + REMEMBERED;
    assert_eq!(tokens.authenticate(&agent, later).await, Err(Refusal::Expired));
    assert_eq!(table.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_api_server_that_is_away_is_asked_again_at_once() {
    let table = Arc::new(Table::default());
    table.down.store(true, Ordering::Relaxed);
    let tokens = tokens(&table);
    for _ in 0..2 {
        let refusal = tokens.authenticate(&token("agent", 30), NOW).await.unwrap_err();
        assert!(refusal.is_temporary());
    }
    assert_eq!(table.asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn while_the_api_server_is_away_what_it_said_holds_for_its_time_and_no_longer() {
    let table = Arc::new(Table::default());
    let tokens = tokens(&table);
    let agent = token("agent", 600);
    tokens.authenticate(&agent, NOW).await.unwrap();
    table.down.store(true, Ordering::Relaxed);
    let last = NOW + REMEMBERED - Duration::from_secs(1);
    tokens.authenticate(&agent, last).await.unwrap();
    let refusal = tokens.authenticate(&agent, NOW + REMEMBERED).await.unwrap_err();
    assert_eq!(refusal.reason(), "review_failed");
    table.down.store(false, Ordering::Relaxed);
    tokens.authenticate(&agent, NOW + REMEMBERED).await.unwrap();
}

#[tokio::test]
async fn guesses_do_not_fill_the_memory() {
    let tokens = tokens(&Arc::default());
    for guess in 0..2 * MAX_REMEMBERED {
        let refused = tokens.authenticate(&format!("bad.{guess}"), NOW).await;
        assert!(refused.is_err());
    }
    let remembered = tokens.remembered();
    assert_eq!(remembered.answers.len(), MAX_REMEMBERED);
    assert_eq!(remembered.ends.len(), MAX_REMEMBERED);
}

#[test]
fn flags_that_say_something_else_are_named() {
    let parse = |agent: &str, fleet: &str| ServiceAccounts::parse(&[agent.to_owned()], &[fleet.to_owned()]);
    assert!(parse("a/b", "a/c=t").is_ok());
    for (agent, fleet, said) in [
        ("a", "a/c=t", "NAMESPACE/NAME"),
        ("a/b/c", "a/c=t", "NAMESPACE/NAME"),
        ("a/b", "a/c", "TENANT"),
        ("a/b", "a/c=", "not the name"),
        ("a/b", "a/c=T", "not the name"),
        ("a/b", "a/b=t", "two scopes"),
    ] {
        let error = parse(agent, fleet).unwrap_err().to_string();
        assert!(error.contains(said), "{agent} {fleet}: {error}");
    }
}
