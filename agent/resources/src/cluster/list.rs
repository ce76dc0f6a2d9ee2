//! Everything once, for who looks and goes away: whole objects, with their statuses.

use std::sync::Arc;

use futures_util::future::join_all;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};

use super::{
    Selection,
    follow::{PAGE_SIZE, describe, resources},
};
use crate::{
    ObjectKey, Problem, Snapshot,
    kind::{Object, Visitor},
};

/// What came of asking for a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    All,
    /// The API server does not know the kind, in none of its groups.
    NotInstalled,
    /// It may not be read, or could not be: why. Nothing is known of what is there.
    Unknown(String),
}

/// What was there, and what came of asking for it.
#[derive(Debug, Default)]
pub struct Listing {
    pub snapshot: Snapshot,
    /// In the order of the selections.
    pub outcomes: Vec<(Selection, Listed)>,
}

impl Listing {
    /// Asks for all selections at once, and adds what comes. What cannot be read is in the outcomes, an
    /// object that is not of the right form in the snapshot's problems: neither is an error.
    pub async fn add(&mut self, client: &Client, selections: impl IntoIterator<Item = Selection>) {
        let selections: Vec<Selection> = selections.into_iter().collect();
        let asked = selections.iter().map(|selection| selection.kind.visit(Ask { client, selection }));
        let answers = join_all(asked).await;
        for (selection, answer) in selections.into_iter().zip(answers) {
            let outcome = match answer {
                Answer::Objects(put) => {
                    put(&mut self.snapshot);
                    Listed::All
                }
                Answer::NotInstalled => Listed::NotInstalled,
                Answer::Unknown(why) => Listed::Unknown(why),
            };
            self.outcomes.push((selection, outcome));
        }
    }
}

type Put = Box<dyn FnOnce(&mut Snapshot) + Send>;

enum Answer {
    Objects(Put),
    NotInstalled,
    Unknown(String),
}

struct Ask<'a> {
    client: &'a Client,
    selection: &'a Selection,
}

impl<'a> Visitor for Ask<'a> {
    type Output = futures_util::future::BoxFuture<'a, Answer>;

    fn visit<T: Object>(self) -> Self::Output {
        Box::pin(ask::<T>(self.client, self.selection))
    }
}

async fn ask<T: Object>(client: &Client, selection: &Selection) -> Answer {
    for resource in resources::<T>() {
        let api: Api<DynamicObject> = match &selection.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        match pages(&api, selection).await {
            Ok(objects) => {
                return Answer::Objects(Box::new(move |snapshot| put::<T>(snapshot, objects)));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(kube::Error::Api(status)) => return Answer::Unknown(status.message.clone()),
            Err(error) => return Answer::Unknown(describe(&error)),
        }
    }
    Answer::NotInstalled
}

async fn pages(api: &Api<DynamicObject>, selection: &Selection) -> kube::Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    let mut params = ListParams {
        label_selector: selection.labels.clone(),
        field_selector: selection.fields.clone(),
        limit: Some(PAGE_SIZE),
        ..ListParams::default()
    };
    loop {
        let page = api.list(&params).await?;
        objects.extend(page.items);
        params.continue_token = page.metadata.continue_.filter(|token| !token.is_empty());
        if params.continue_token.is_none() {
            return Ok(objects);
        }
    }
}

fn put<T: Object>(snapshot: &mut Snapshot, objects: Vec<DynamicObject>) {
    for object in objects {
        let key = ObjectKey {
            namespace: object.metadata.namespace.clone().unwrap_or_default(),
            name: object.metadata.name.clone().unwrap_or_default(),
        };
        let read = serde_json::to_value(object).map_err(|error| error.to_string());
        match read.and_then(|value| T::parse(&value)) {
            Ok(object) => T::of(snapshot).insert(key, Arc::new(object)),
            Err(message) => snapshot.problems.push(Problem {
                place: "cluster".into(),
                object: Some(format!("{} {key}", T::KIND.names().kind)),
                message,
            }),
        }
    }
}
