//! Rules of access to topics, for apps on the link.

use towline_client::Client;
use towline_gateway::settings::{AclAction, AclRule, Permission};

use crate::bed::{BOTH, Bed, online};

fn rule(name: &str, action: AclAction, topic: &str) -> AclRule {
    AclRule { action, topics: vec![topic.to_owned()], ..AclRule::new(name, Permission::Allow) }
}

#[tokio::test]
async fn an_app_has_the_topics_that_the_rules_give_it() {
    let bed = Bed::with(|settings| {
        settings.acl.rules = vec![
            rule("own", AclAction::Both, "own/${clientid}/#"),
            rule("news", AclAction::Subscribe, "news/+"),
        ];
    })
    .await;
    for (name, transports) in ["a", "b"].into_iter().zip(BOTH) {
        let mut config = bed.config(transports);
        config.client_id = Some(name.into());
        config.topics = vec!["#".into(), format!("own/{name}/x"), "own/+/x".into()];
        let client = Client::start(config).unwrap();
        online(&client).await;
        let held = || {
            let subscriptions = bed.gateway().hub.subscriptions(name).into_iter();
            subscriptions.map(|(filter, _)| filter).collect::<Vec<_>>()
        };
        assert_eq!(held(), [format!("own/{name}/x")], "what HELLO asked for");
        client.subscribe("news/today").await.unwrap();
        let error = client.subscribe("other").await.unwrap_err();
        assert!(error.to_string().contains("not permitted"), "{error}");
        assert_eq!(held().len(), 2);
        let mut pushes = client.pushes();
        let error = client.publish("news/today", "rain").await.unwrap_err();
        assert!(error.to_string().contains("not permitted"), "{error}");
        client.publish(format!("own/{name}/x"), "mine").await.unwrap();
        assert_eq!(&pushes.next().await.unwrap().payload[..], b"mine");
    }
}
