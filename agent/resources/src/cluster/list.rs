//! One-time lists: whole objects with their statuses.

use std::sync::Arc;

use futures_util::future::join_all;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams},
};

use super::{
    selection::Selection,
    watch::{PAGE_SIZE, describe, resources},
};
use crate::{
    ObjectKey, Problem, Snapshot,
    kind::{Object, Visitor},
};

/// Outcome of listing a selection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listed {
    /// All objects were listed.
    All,
    /// The API server serves the kind in none of its groups.
    NotInstalled,
    /// Not permitted or failed, and why. Nothing is known about the objects.
    Unknown(String),
}

/// Listed objects with the outcome of each selection.
#[derive(Debug, Default)]
pub struct Listing {
    /// The objects of all selections.
    pub snapshot: Snapshot,
    /// In the order of the selections.
    pub outcomes: Vec<(Selection, Listed)>,
}

impl Listing {
    /// Lists all selections concurrently and adds their objects. A selection that cannot be listed is in `outcomes`, an
    /// invalid object in the snapshot's problems; neither is an error.
    pub async fn add(&mut self, client: &Client, selections: impl IntoIterator<Item = Selection>) {
        let selections: Vec<Selection> = selections.into_iter().collect();
        let requests =
            selections.iter().map(|selection| selection.kind.visit(ListVisitor { client, selection }));
        let responses = join_all(requests).await;
        for (selection, response) in selections.into_iter().zip(responses) {
            let outcome = match response {
                Response::Objects(put) => {
                    put(&mut self.snapshot);
                    Listed::All
                }
                Response::NotInstalled => Listed::NotInstalled,
                Response::Unknown(why) => Listed::Unknown(why),
            };
            self.outcomes.push((selection, outcome));
        }
    }
}

type Put = Box<dyn FnOnce(&mut Snapshot) + Send>;

enum Response {
    Objects(Put),
    NotInstalled,
    Unknown(String),
}

struct ListVisitor<'a> {
    client: &'a Client,
    selection: &'a Selection,
}

impl<'a> Visitor for ListVisitor<'a> {
    type Output = futures_util::future::BoxFuture<'a, Response>;

    fn visit<T: Object>(self) -> Self::Output {
        Box::pin(list::<T>(self.client, self.selection))
    }
}

async fn list<T: Object>(client: &Client, selection: &Selection) -> Response {
    for resource in resources::<T>() {
        let api: Api<DynamicObject> = match &selection.namespace {
            Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        match pages(&api, selection).await {
            Ok(objects) => {
                return Response::Objects(Box::new(move |snapshot| put::<T>(snapshot, objects)));
            }
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(kube::Error::Api(status)) => return Response::Unknown(status.message.clone()),
            Err(error) => return Response::Unknown(describe(&error)),
        }
    }
    Response::NotInstalled
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
