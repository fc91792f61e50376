//! Contacts and subscriptions between accounts of this server (RFC 6121 sections 2 and 3).
//!
//! Pure: works on the stored accounts; what is to be told to whom is returned.

use super::limits;
use super::stanza::Condition;
use super::store::{Account, Contact, Store};
use super::xml::Element;

/// Namespace of roster queries, pushes and items.
pub(super) const NS_ROSTER: &str = "jabber:iq:roster";

/// A subscription stanza, by its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Subscribe,
    Subscribed,
    Unsubscribe,
    Unsubscribed,
}

impl Request {
    pub(super) fn from_type(name: &str) -> Option<Self> {
        match name {
            "subscribe" => Some(Request::Subscribe),
            "subscribed" => Some(Request::Subscribed),
            "unsubscribe" => Some(Request::Unsubscribe),
            "unsubscribed" => Some(Request::Unsubscribed),
            _ => None,
        }
    }
}

/// What follows from a change of subscription.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Consequence {
    /// The item (second) of the account (first) changed: push it.
    Push { user: String, contact: String },
    /// Hand the presence stanza of this type to the account's sessions.
    Tell { user: String, kind: &'static str },
    /// `watcher` may now see `watched`'s presence.
    Show { watched: String, watcher: String },
    /// `watcher` may no longer see `watched`'s presence.
    Hide { watched: String, watcher: String },
}

/// The whole roster as a query element.
pub(super) fn query(account: &Account) -> Element {
    let items = account.contacts.iter().map(|(jid, contact)| item(jid, Some(contact)));
    Element::new("query", NS_ROSTER).children_from(items)
}

/// One item; without contact: a removed one.
pub(super) fn item(jid: &str, contact: Option<&Contact>) -> Element {
    let element = Element::new("item", NS_ROSTER).with("jid", jid);
    let Some(contact) = contact else {
        return element.with("subscription", "remove");
    };
    let subscription = match (contact.to, contact.from) {
        (true, true) => "both",
        (true, false) => "to",
        (false, true) => "from",
        (false, false) => "none",
    };
    let mut element = element.with("subscription", subscription);
    if contact.asked {
        element.set("ask", "subscribe");
    }
    if !contact.name.is_empty() {
        element.set("name", contact.name.as_str());
    }
    let groups = contact
        .groups
        .iter()
        .map(|g| Element::new("group", NS_ROSTER).with_text(g.as_str()));
    element.children_from(groups)
}

/// Adds or changes the name and groups of a contact (RFC 6121 section 2.3).
pub(super) fn set(account: &mut Account, jid: &str, item: &Element) -> Result<(), Condition> {
    let name = item.attr("name").unwrap_or_default().to_owned();
    let groups: Vec<String> = item
        .elements()
        .filter(|e| e.is("group", NS_ROSTER))
        .map(Element::text)
        .collect();
    let bytes = name.len() + groups.iter().map(|g| g.len() + 8).sum::<usize>();
    if bytes > limits::ROSTER_TEXT_MAX {
        return Err(Condition::NotAcceptable);
    }
    let contact = contact(account, jid).ok_or(Condition::ResourceConstraint)?;
    contact.name = name;
    contact.groups = groups;
    Ok(())
}

/// Removes a contact and both subscriptions (RFC 6121 section 2.5).
pub(super) fn remove(store: &mut Store, user: &Party, other: &Party) -> Result<Vec<Consequence>, Condition> {
    let known = store
        .account(&user.user)
        .is_some_and(|a| a.contacts.contains_key(&other.jid));
    if !known {
        return Err(Condition::ItemNotFound);
    }
    let mut out = change(store, Request::Unsubscribe, user, other);
    out.extend(change(store, Request::Unsubscribed, user, other));
    if let Some(account) = store.account_mut(&user.user) {
        account.contacts.remove(&other.jid);
    }
    out.push(Consequence::Push {
        user: user.user.clone(),
        contact: other.jid.clone(),
    });
    Ok(out)
}

/// One side of a subscription: an account name and its bare JID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Party {
    pub(super) user: String,
    pub(super) jid: String,
}

/// `from` sends `request` to `to`.
pub(super) fn change(store: &mut Store, request: Request, from: &Party, to: &Party) -> Vec<Consequence> {
    match request {
        Request::Subscribe => subscribe(store, from, to),
        Request::Subscribed => subscribed(store, from, to),
        Request::Unsubscribe => {
            let mut out = drop_view(store, from, to, "unsubscribe", &to.user);
            if let Some(account) = store.account_mut(&to.user) {
                account.requests.remove(&from.jid);
            }
            out.push(Consequence::Hide {
                watched: to.user.clone(),
                watcher: from.user.clone(),
            });
            out
        }
        Request::Unsubscribed => {
            let mut out = drop_view(store, to, from, "unsubscribed", &to.user);
            if let Some(account) = store.account_mut(&from.user) {
                account.requests.remove(&to.jid);
            }
            out.push(Consequence::Hide {
                watched: from.user.clone(),
                watcher: to.user.clone(),
            });
            out
        }
    }
}

fn subscribe(store: &mut Store, from: &Party, to: &Party) -> Vec<Consequence> {
    let Some(contact) = store
        .account_mut(&from.user)
        .and_then(|account| contact(account, &to.jid))
    else {
        return Vec::new();
    };
    contact.asked = !contact.to;
    let mut out = vec![push(from, to)];
    // Somebody who does not exist is asked in vain, and looks like somebody who does not answer.
    let Some(account) = store.account_mut(&to.user) else {
        return out;
    };
    if account.contacts.get(&from.jid).is_some_and(|c| c.from) {
        out.extend(subscribed(store, to, from));
    } else if account.requests.len() < limits::ROSTER_REQUESTS_MAX && account.requests.insert(from.jid.clone()) {
        out.push(Consequence::Tell {
            user: to.user.clone(),
            kind: "subscribe",
        });
    }
    out
}

/// `from` lets `to` see its presence; without a request before, nothing changes (RFC 6121 section 3.1.6).
fn subscribed(store: &mut Store, from: &Party, to: &Party) -> Vec<Consequence> {
    let asked = store
        .account(&to.user)
        .and_then(|a| a.contacts.get(&from.jid))
        .is_some_and(|c| c.asked);
    let Some(account) = store.account_mut(&from.user) else {
        return Vec::new();
    };
    let requested = account.requests.remove(&to.jid);
    let already = account.contacts.get(&to.jid).is_some_and(|c| c.from);
    if !asked || !(requested || already) {
        return Vec::new();
    }
    let Some(contact) = contact(account, &to.jid) else {
        return Vec::new();
    };
    contact.from = true;
    let theirs = store.account_mut(&to.user).and_then(|a| a.contacts.get_mut(&from.jid));
    if let Some(theirs) = theirs {
        theirs.to = true;
        theirs.asked = false;
    }
    vec![
        push(from, to),
        Consequence::Tell {
            user: to.user.clone(),
            kind: "subscribed",
        },
        push(to, from),
        Consequence::Show {
            watched: from.user.clone(),
            watcher: to.user.clone(),
        },
    ]
}

/// `watcher` no longer sees `watched`.
fn drop_view(store: &mut Store, watcher: &Party, watched: &Party, kind: &'static str, told: &str) -> Vec<Consequence> {
    let mut out = Vec::new();
    if let Some(c) = store
        .account_mut(&watcher.user)
        .and_then(|a| a.contacts.get_mut(&watched.jid))
    {
        c.to = false;
        c.asked = false;
        out.push(push(watcher, watched));
    }
    if let Some(c) = store
        .account_mut(&watched.user)
        .and_then(|a| a.contacts.get_mut(&watcher.jid))
    {
        c.from = false;
        out.push(push(watched, watcher));
    }
    out.push(Consequence::Tell {
        user: told.to_owned(),
        kind,
    });
    out
}

fn push(of: &Party, contact: &Party) -> Consequence {
    Consequence::Push {
        user: of.user.clone(),
        contact: contact.jid.clone(),
    }
}

/// The contact, made if there is room.
fn contact<'a>(account: &'a mut Account, jid: &str) -> Option<&'a mut Contact> {
    if !account.contacts.contains_key(jid) && account.contacts.len() >= limits::ROSTER_ITEMS_MAX {
        return None;
    }
    Some(account.contacts.entry(jid.to_owned()).or_default())
}
