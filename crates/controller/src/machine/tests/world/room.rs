//! The room where the machines of the world meet.

use super::*;

impl World {
    pub(super) fn rendezvous(&mut self, machine: usize, network: NetworkId, command: RendezvousCommand) {
        match command {
            RendezvousCommand::Start { login, room, card } => {
                let occupant = Occupant(format!("room/{}-{}", login.user, self.rng.next_u32()));
                self.machines[machine].rooms.insert(network, (login, room, occupant));
                self.enter_room(machine, network, card);
            }
            RendezvousCommand::Card(card) => self.show(machine, network, card),
            RendezvousCommand::Send { to, bytes } => {
                let Some((_, room, from)) = self.machines[machine].rooms.get(&network).cloned() else {
                    return;
                };
                let apart = self
                    .sitting_at(network, &to)
                    .is_some_and(|other| self.are_apart(machine, other));
                if !self.room_down && !apart && self.cards.contains_key(&(room, to.clone())) {
                    self.carried.push((from.clone(), to.clone(), bytes.clone()));
                    self.hand_over(network, &from, &to, bytes);
                }
            }
            RendezvousCommand::Stop => self.leave_room(machine, network),
        }
    }

    pub(super) fn are_apart(&self, one: usize, other: usize) -> bool {
        self.apart.contains(&(one, other)) || self.apart.contains(&(other, one))
    }

    pub(super) fn sitting_at(&self, network: NetworkId, occupant: &Occupant) -> Option<usize> {
        let sits = |m: &Machine| m.rooms.get(&network).is_some_and(|(_, _, o)| o == occupant);
        self.machines.iter().position(sits)
    }

    /// Everybody sees everybody again.
    pub(in super::super) fn reunite(&mut self, network: NetworkId) {
        self.apart.clear();
        self.walls.clear();
        for ((room, occupant), card) in self.cards.clone() {
            self.show_as(network, &room, &occupant, card);
        }
        self.settle();
    }

    /// Gives bytes to an occupant, as the server says from whom.
    pub(in super::super) fn hand_over(&mut self, network: NetworkId, from: &Occupant, to: &Occupant, bytes: Vec<u8>) {
        let target = self
            .machines
            .iter()
            .position(|m| m.rooms.get(&network).is_some_and(|(_, _, o)| o == to));
        if let Some(machine) = target {
            let event = RendezvousEvent::Received {
                from: from.clone(),
                bytes,
            };
            self.machines[machine]
                .inbox
                .push_back(Input::Rendezvous(network, event));
        }
    }

    pub(super) fn enter_room(&mut self, machine: usize, network: NetworkId, card: Vec<u8>) {
        let fault = self.machines[machine].rendezvous_fault;
        let fault = fault.or(self.room_down.then_some(RendezvousFault::Unreachable));
        if let Some(fault) = fault {
            let event = RendezvousEvent::Offline {
                reason: format!("rdv.example:5222 does not let us in ({fault:?})"),
                fault,
                retry_ms: 1000,
            };
            return self.machines[machine]
                .inbox
                .push_back(Input::Rendezvous(network, event));
        }
        self.machines[machine]
            .inbox
            .push_back(Input::Rendezvous(network, RendezvousEvent::Online));
        let room = self.machines[machine].rooms[&network].1.clone();
        for ((r, occupant), card) in &self.cards {
            let apart = self
                .sitting_at(network, occupant)
                .is_some_and(|other| self.are_apart(machine, other));
            if *r == room && !apart {
                let event = RendezvousEvent::Present {
                    occupant: occupant.clone(),
                    card: card.clone(),
                };
                self.machines[machine]
                    .inbox
                    .push_back(Input::Rendezvous(network, event));
            }
        }
        self.show(machine, network, card);
    }

    pub(super) fn show(&mut self, machine: usize, network: NetworkId, card: Vec<u8>) {
        let Some((_, room, occupant)) = self.machines[machine].rooms.get(&network).cloned() else {
            return;
        };
        if !self.room_down {
            self.show_as(network, &room, &occupant, card);
        }
    }

    /// Shows a card as any occupant: what an evil server can do.
    pub(in super::super) fn show_as(&mut self, network: NetworkId, room: &str, occupant: &Occupant, card: Vec<u8>) {
        self.cards.insert((room.to_owned(), occupant.clone()), card.clone());
        let shown_by = self.sitting_at(network, occupant);
        for number in 0..self.machines.len() {
            let apart = shown_by.is_some_and(|other| self.are_apart(number, other));
            let machine = &mut self.machines[number];
            let there = |(_, r, o): &(Login, String, Occupant)| r == room && o != occupant;
            if !apart && machine.rooms.get(&network).is_some_and(there) {
                let event = RendezvousEvent::Present {
                    occupant: occupant.clone(),
                    card: card.clone(),
                };
                machine.inbox.push_back(Input::Rendezvous(network, event));
            }
        }
    }

    pub(in super::super) fn occupant(&self, machine: usize, network: NetworkId) -> (String, Occupant) {
        let (_, room, occupant) = &self.machines[machine].rooms[&network];
        (room.clone(), occupant.clone())
    }

    pub(in super::super) fn is_in_a_room(&self, machine: usize) -> bool {
        !self.machines[machine].rooms.is_empty()
    }

    pub(super) fn leave_room(&mut self, machine: usize, network: NetworkId) {
        let Some((_, room, occupant)) = self.machines[machine].rooms.remove(&network) else {
            return;
        };
        self.cards.remove(&(room, occupant.clone()));
        for other in &mut self.machines {
            let event = RendezvousEvent::Absent {
                occupant: occupant.clone(),
            };
            if other.rooms.contains_key(&network) {
                other.inbox.push_back(Input::Rendezvous(network, event));
            }
        }
    }

    /// The server dies: everybody is offline until it comes back, which nobody here does by itself.
    pub(in super::super) fn kill_room(&mut self) {
        self.room_down = true;
        self.cards.clear();
        for machine in &mut self.machines {
            for network in machine.rooms.keys() {
                let event = RendezvousEvent::Offline {
                    reason: "rdv.example:5222 closed the connection".into(),
                    fault: RendezvousFault::Lost,
                    retry_ms: 1000,
                };
                machine.inbox.push_back(Input::Rendezvous(*network, event));
            }
        }
        self.settle();
    }

    /// A machine is gone from the room and from its links, as when the power fails.
    pub(in super::super) fn power_off(&mut self, machine: usize, network: NetworkId) {
        let links: Vec<NodeId> = {
            let tincan = self.machines[machine].tincan.as_ref().expect("runs");
            tincan
                .networks
                .get(&network)
                .map(|n| n.links.keys().copied().collect())
                .unwrap_or_default()
        };
        self.leave_room(machine, network);
        for node in links {
            self.cut(machine, network, node, true);
        }
        let number = self.machines[machine].number;
        let now = self.time(machine);
        self.machines[machine].controller = Controller::new(config(number, 2), None, now).expect("nothing");
        self.machines[machine].tincan = None;
        self.settle();
    }
}
