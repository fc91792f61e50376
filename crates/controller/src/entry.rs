//! Entries of a group's membership log: their bytes, and the proof that the right keys signed them.
//!
//! Promises: a [`Verified`] entry has one encoding, was signed by every key that it names, and belongs to this network.
//! Refuses to know: whether it has an effect; that is [`crate::membership`].
//!
//! An entry is: version, kind, body, signatures. A signature covers its role, the network id and every byte of the entry before it.

use api::link::Purpose;
use api::{Cidr, NetworkId, NodeId};

use crate::addressing::{is_group_name, is_group_subnet, is_label};
use crate::crypto::{InviteKey, Sig, hash, verify};
use crate::limits::{EJECTION_KEEPS_MAX, ENTRY_BYTES_MAX, GROUP_NAME_MAX, HOST_NAME_MAX};
use crate::wire::{Malformed, Reader, put_text};

const VERSION: u8 = 1;
const GENESIS: u8 = 1;
const GRANT: u8 = 2;
const ADMISSION: u8 = 3;
const EJECTION: u8 = 4;
const LEAVE: u8 = 5;

/// Names an entry: SHA-256 of its bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryId(pub [u8; 32]);

impl std::fmt::Debug for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let text = data_encoding::HEXLOWER.encode(&self.0[..6]);
        write!(f, "EntryId({text}..)")
    }
}

/// Why bytes are no entry of this network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not the bytes of an entry.
    #[error("a membership entry is malformed")]
    Malformed,
    /// Made by a later IPOP.
    #[error("a membership entry was written by a newer IPOP: upgrade this one")]
    Newer,
    /// A key that the entry names did not sign it, or it is of another network.
    #[error("a membership entry has a wrong signature")]
    Signature,
}

impl From<Malformed> for EntryError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// In which capacity a key signs; no signature can stand for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The group's root.
    Root,
    /// An invite's one-time key.
    Invite,
    /// The node that wants in.
    Joiner,
    /// The member that lets it in.
    Sponsor,
    /// The node that goes.
    Leaver,
}

impl Role {
    fn byte(self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Invite => 1,
            Self::Joiner => 2,
            Self::Sponsor => 3,
            Self::Leaver => 4,
        }
    }
}

/// The first entry of a log, signed by the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Genesis {
    /// Unix time.
    pub created: u64,
    /// The group's IPv4 subnet.
    pub subnet: Cidr,
    /// The first member.
    pub founder: NodeId,
    /// Its host name.
    pub founder_name: String,
    /// The group's name.
    pub name: String,
}

/// The right to join, signed by the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Public half of the invite's one-time key.
    pub key: [u8; 32],
    /// How many nodes.
    pub uses: u16,
    /// Unix time.
    pub expires_at: u64,
}

/// What a joiner asks: signed by the invite's key and its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The grant that it uses.
    pub grant: [u8; 32],
    /// Who.
    pub joiner: NodeId,
    /// Unix time by the joiner's clock; a leave at or after it undoes it.
    pub joined_at: u64,
    /// The host name wished for.
    pub name: String,
    bytes: Vec<u8>,
}

/// A request let in by a member, which says that the grant was good as it saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The request.
    pub request: Request,
    /// Who let it in.
    pub sponsor: NodeId,
    /// Which use of the grant this is, from 1.
    pub index: u16,
    /// Unix time by the sponsor's clock.
    pub admitted_at: u64,
}

/// A node key is revoked for ever, signed by the root. Whom it had let in goes too, but for those named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Who.
    pub node: NodeId,
    /// Unix time.
    pub at: u64,
    /// Admissions by that node which stay good.
    pub keeps: Vec<EntryId>,
}

/// A member says that it is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Who.
    pub node: NodeId,
    /// Unix time by its clock.
    pub left_at: u64,
}

/// An entry's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// See [`Genesis`].
    Genesis(Genesis),
    /// See [`Grant`].
    Grant(Grant),
    /// See [`Admission`].
    Admission(Admission),
    /// See [`Ejection`].
    Ejection(Ejection),
    /// See [`Leave`].
    Leave(Leave),
}

/// An entry whose signatures were checked: there is no other way to make one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    id: EntryId,
    entry: Entry,
    bytes: Vec<u8>,
}

impl Verified {
    /// Reads and checks an entry of a network.
    pub fn parse(network: NetworkId, bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::Malformed);
        }
        let mut reader = Reader::new(bytes);
        if reader.u8()? > VERSION {
            return Err(EntryError::Newer);
        }
        let mut checked = Checked { network, reader };
        let entry = match checked.reader.u8()? {
            GENESIS => Entry::Genesis(checked.genesis()?),
            GRANT => Entry::Grant(checked.grant()?),
            ADMISSION => Entry::Admission(checked.admission()?),
            EJECTION => Entry::Ejection(checked.ejection()?),
            LEAVE => Entry::Leave(checked.leave()?),
            _ => return Err(EntryError::Malformed),
        };
        checked.reader.end()?;
        if bytes[0] != VERSION {
            return Err(EntryError::Malformed);
        }
        Ok(Self {
            id: EntryId(hash("ipop entry id v1", &[bytes])),
            entry,
            bytes: bytes.to_vec(),
        })
    }

    /// Its name.
    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Its content.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the root signed it.
    pub fn by_root(&self) -> bool {
        matches!(self.entry, Entry::Genesis(_) | Entry::Grant(_) | Entry::Ejection(_))
    }
}

impl Request {
    /// Reads and checks a joiner's request.
    pub fn parse(network: NetworkId, bytes: &[u8]) -> Result<Self, EntryError> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryError::Malformed);
        }
        let mut reader = Reader::new(bytes);
        match (reader.u8()?, reader.u8()?) {
            (VERSION, ADMISSION) => {}
            (version, _) if version > VERSION => return Err(EntryError::Newer),
            _ => return Err(EntryError::Malformed),
        }
        let mut checked = Checked { network, reader };
        let request = checked.request()?;
        checked.reader.end()?;
        Ok(request)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// An entry on its way to be signed.
#[derive(Clone, Debug)]
pub struct Draft {
    network: NetworkId,
    bytes: Vec<u8>,
}

impl Draft {
    fn new(network: NetworkId, kind: u8) -> Self {
        Self {
            network,
            bytes: vec![VERSION, kind],
        }
    }

    /// For the root to sign.
    pub fn genesis(network: NetworkId, genesis: &Genesis) -> Self {
        let mut draft = Self::new(network, GENESIS);
        draft.put(&genesis.created.to_be_bytes());
        if let std::net::IpAddr::V4(address) = genesis.subnet.address {
            draft.put(&address.octets());
        }
        draft.put(&[genesis.subnet.prefix]);
        draft.put(&genesis.founder.0);
        put_text(&mut draft.bytes, &genesis.founder_name);
        put_text(&mut draft.bytes, &genesis.name);
        draft
    }

    /// For the root to sign.
    pub fn grant(network: NetworkId, grant: &Grant) -> Self {
        let mut draft = Self::new(network, GRANT);
        draft.put(&grant.key);
        draft.put(&[0]);
        draft.put(&grant.uses.to_be_bytes());
        draft.put(&grant.expires_at.to_be_bytes());
        draft
    }

    /// For the joiner to sign; the invite's key has signed already.
    pub fn request(network: NetworkId, key: &InviteKey, joiner: NodeId, joined_at: u64, name: &str) -> Self {
        let mut draft = Self::new(network, ADMISSION);
        draft.put(&key.public());
        draft.put(&joiner.0);
        draft.put(&joined_at.to_be_bytes());
        put_text(&mut draft.bytes, name);
        let signature = key.sign(Purpose::LogEntry, &draft.payload(Role::Invite));
        draft.signed(&signature)
    }

    /// For the sponsor to sign.
    pub fn admission(network: NetworkId, request: &Request, sponsor: NodeId, index: u16, admitted_at: u64) -> Self {
        let mut draft = Self {
            network,
            bytes: request.bytes.clone(),
        };
        draft.put(&sponsor.0);
        draft.put(&index.to_be_bytes());
        draft.put(&admitted_at.to_be_bytes());
        draft
    }

    /// For the root to sign; keeps beyond the bound are left out.
    pub fn ejection(network: NetworkId, ejection: &Ejection) -> Self {
        let mut draft = Self::new(network, EJECTION);
        let keeps = &ejection.keeps[..ejection.keeps.len().min(EJECTION_KEEPS_MAX)];
        draft.put(&ejection.node.0);
        draft.put(&ejection.at.to_be_bytes());
        draft.put(&[keeps.len() as u8]);
        for keep in keeps {
            draft.put(&keep.0);
        }
        draft
    }

    /// For the leaver to sign.
    pub fn leave(network: NetworkId, leave: &Leave) -> Self {
        let mut draft = Self::new(network, LEAVE);
        draft.put(&leave.node.0);
        draft.put(&leave.left_at.to_be_bytes());
        draft
    }

    /// What a key in that role signs, for [`Purpose::LogEntry`].
    pub fn payload(&self, role: Role) -> Vec<u8> {
        payload(role, self.network, &self.bytes)
    }

    /// With one more signature.
    #[must_use]
    pub fn signed(mut self, signature: &[u8]) -> Self {
        self.put(signature);
        self
    }

    /// The bytes so far.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }
}

fn payload(role: Role, network: NetworkId, before: &[u8]) -> Vec<u8> {
    let mut payload = vec![role.byte()];
    payload.extend_from_slice(&network.0);
    payload.extend_from_slice(before);
    payload
}

/// Reads bodies and checks signatures as they come.
struct Checked<'a> {
    network: NetworkId,
    reader: Reader<'a>,
}

impl Checked<'_> {
    fn signature(&mut self, role: Role, key: &[u8; 32]) -> Result<(), EntryError> {
        let payload = payload(role, self.network, self.reader.taken());
        let signature: Sig = self.reader.array()?;
        if verify(key, Purpose::LogEntry, &payload, &signature) {
            Ok(())
        } else {
            Err(EntryError::Signature)
        }
    }

    fn root(&mut self) -> Result<(), EntryError> {
        let root = self.network.0;
        self.signature(Role::Root, &root)
    }

    fn label(&mut self, max: usize) -> Result<String, EntryError> {
        let text = self.reader.text(max)?;
        if is_label(text, max) {
            Ok(text.to_owned())
        } else {
            Err(EntryError::Malformed)
        }
    }

    fn genesis(&mut self) -> Result<Genesis, EntryError> {
        let created = self.reader.u64()?;
        let address = self.reader.array::<4>()?;
        let prefix = self.reader.u8()?;
        let subnet = Cidr::new(std::net::Ipv4Addr::from(address).into(), prefix).ok_or(Malformed)?;
        let founder = NodeId(self.reader.array()?);
        let founder_name = self.label(HOST_NAME_MAX)?;
        let name = self.label(GROUP_NAME_MAX)?;
        if !is_group_subnet(subnet) || !is_group_name(&name) {
            return Err(EntryError::Malformed);
        }
        self.root()?;
        Ok(Genesis {
            created,
            subnet,
            founder,
            founder_name,
            name,
        })
    }

    fn grant(&mut self) -> Result<Grant, EntryError> {
        let key = self.reader.array()?;
        let role = self.reader.u8()?;
        let uses = self.reader.u16()?;
        let expires_at = self.reader.u64()?;
        if role != 0 || uses == 0 {
            return Err(EntryError::Malformed);
        }
        self.root()?;
        Ok(Grant { key, uses, expires_at })
    }

    fn request(&mut self) -> Result<Request, EntryError> {
        let grant = self.reader.array()?;
        let joiner = NodeId(self.reader.array()?);
        let joined_at = self.reader.u64()?;
        let name = self.label(HOST_NAME_MAX)?;
        self.signature(Role::Invite, &grant)?;
        self.signature(Role::Joiner, &joiner.0)?;
        Ok(Request {
            grant,
            joiner,
            joined_at,
            name,
            bytes: self.reader.taken().to_vec(),
        })
    }

    fn admission(&mut self) -> Result<Admission, EntryError> {
        let request = self.request()?;
        let sponsor = NodeId(self.reader.array()?);
        let index = self.reader.u16()?;
        let admitted_at = self.reader.u64()?;
        if sponsor == request.joiner || index == 0 {
            return Err(EntryError::Malformed);
        }
        self.signature(Role::Sponsor, &sponsor.0)?;
        Ok(Admission {
            request,
            sponsor,
            index,
            admitted_at,
        })
    }

    fn ejection(&mut self) -> Result<Ejection, EntryError> {
        let node = NodeId(self.reader.array()?);
        let at = self.reader.u64()?;
        let count = usize::from(self.reader.u8()?);
        if count > EJECTION_KEEPS_MAX {
            return Err(EntryError::Malformed);
        }
        let keeps = (0..count)
            .map(|_| self.reader.array().map(EntryId))
            .collect::<Result<_, _>>()?;
        self.root()?;
        Ok(Ejection { node, at, keeps })
    }

    fn leave(&mut self) -> Result<Leave, EntryError> {
        let node = NodeId(self.reader.array()?);
        let left_at = self.reader.u64()?;
        self.signature(Role::Leaver, &node.0)?;
        Ok(Leave { node, left_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::*;
    use proptest::prelude::*;

    fn one_of_each() -> Vec<Verified> {
        vec![
            genesis(),
            grant(100, 3),
            admission(100, 2, 1, 1, 10, "bob"),
            ejection(2, 20, vec![grant(100, 3).id()]),
            leave(2, 30),
        ]
    }

    #[test]
    fn every_bit_flip_is_refused() {
        for entry in one_of_each() {
            for bit in 0..entry.bytes().len() * 8 {
                let mut bytes = entry.bytes().to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                assert!(
                    Verified::parse(network(), &bytes).is_err(),
                    "bit {bit} of {:?}",
                    entry.entry()
                );
            }
        }
    }

    #[test]
    fn cut_and_longer_entries_are_refused() {
        for entry in one_of_each() {
            assert_eq!(Verified::parse(network(), entry.bytes()), Ok(entry.clone()));
            for end in 0..entry.bytes().len() {
                assert!(Verified::parse(network(), &entry.bytes()[..end]).is_err());
            }
            let longer = [entry.bytes(), &[0]].concat();
            assert!(Verified::parse(network(), &longer).is_err());
        }
    }

    #[test]
    fn an_entry_of_another_network_is_refused() {
        let other = NetworkId(key(201).public());
        for entry in one_of_each() {
            assert_eq!(Verified::parse(other, entry.bytes()), Err(EntryError::Signature));
        }
    }

    #[test]
    fn what_an_attacker_signs_itself_is_refused() {
        let mallory = key(66);
        let grant = Grant {
            key: mallory.public(),
            uses: 1,
            expires_at: START,
        };
        let forged = finish(Draft::grant(network(), &grant), Role::Root, &mallory);
        assert_eq!(Verified::parse(network(), &forged), Err(EntryError::Signature));
        let leave = Leave {
            node: node(1),
            left_at: START,
        };
        let forged = finish(Draft::leave(network(), &leave), Role::Leaver, &mallory);
        assert_eq!(Verified::parse(network(), &forged), Err(EntryError::Signature));
        // A joiner that vouches for itself, and one whose invite key did not sign.
        let request = request(100, 66, 10, "m");
        let own = finish(
            Draft::admission(network(), &request, node(66), 1, START),
            Role::Sponsor,
            &mallory,
        );
        assert_eq!(Verified::parse(network(), &own), Err(EntryError::Malformed));
        let mut stolen = request.bytes().to_vec();
        stolen[2..34].copy_from_slice(&key(101).public());
        assert_eq!(Request::parse(network(), &stolen), Err(EntryError::Signature));
    }

    #[test]
    fn a_signature_of_one_role_does_not_stand_for_another() {
        let request = request(100, 2, 10, "bob");
        let draft = Draft::admission(network(), &request, node(1), 1, START);
        let as_joiner = finish(draft, Role::Joiner, &key(1));
        assert_eq!(Verified::parse(network(), &as_joiner), Err(EntryError::Signature));
    }

    #[test]
    fn a_newer_entry_is_told_apart() {
        let mut bytes = genesis().bytes().to_vec();
        bytes[0] = 2;
        assert_eq!(Verified::parse(network(), &bytes), Err(EntryError::Newer));
    }

    proptest! {
        #[test]
        fn nonsense_is_no_entry(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind in 0u8..7) {
            prop_assert!(Verified::parse(network(), &bytes).is_err());
            let headed = [&[1, kind], &bytes[..]].concat();
            prop_assert!(Verified::parse(network(), &headed).is_err());
            prop_assert!(Request::parse(network(), &headed).is_err());
        }
    }
}
