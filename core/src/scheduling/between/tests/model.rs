//! The filters once more, as slow as their definitions, and random sites to compare both on.

use proptest::prelude::*;

use super::*;

/// Everyone on a known node, with the node.
fn everyone(nodes: &Nodes) -> impl Iterator<Item = (&NodeState, &Occupant)> {
    nodes.all_occupants().filter_map(|(ix, occupant)| Some((nodes.node(ix)?.0, occupant)))
}

/// Whether two nodes are in one domain.
fn together(key: &str, one: &NodeState, other: &NodeState) -> bool {
    one.labels.get(key).is_some_and(|value| other.labels.get(key) == Some(value))
}

fn uneven(nodes: &Nodes, node: &NodeState, shape: &Shape, identity: &Identity) -> Option<Why> {
    let constraints: Vec<&Spread> = shape.coupling.spread.iter().filter(|one| one.required).collect();
    for constraint in &constraints {
        let key = &constraint.topology_key;
        let Some(mine) = node.labels.get(key) else { return Some(Why::NoDomain(key.clone())) };
        let mut domains = BTreeMap::<&String, i64>::new();
        for (ix, other, _) in nodes.iter() {
            let counts = constraints.iter().all(|one| other.labels.contains_key(&one.topology_key))
                && (!constraint.honor_affinity || shape.selects(other))
                && (!constraint.honor_taints || shape.untolerated(other).is_none());
            if let Some(value) = other.labels.get(key).filter(|_| counts) {
                let there = nodes.occupants(ix).filter(|(_, pod)| {
                    pod.stage != Stage::Terminating
                        && pod.identity.namespace == identity.namespace
                        && constraint.pods != Selector::All(vec![])
                        && constraint.pods.matches(&pod.identity.labels)
                });
                *domains.entry(value).or_default() += i64::try_from(there.count()).unwrap();
            }
        }
        let few = domains.len() < usize::try_from(constraint.min_domains).unwrap();
        let least = if few { 0 } else { domains.values().copied().min().unwrap_or(0) };
        let itself = i64::from(constraint.pods.matches(&identity.labels));
        if domains.get(mine).copied().unwrap_or(0) + itself - least > i64::from(constraint.max_skew) {
            return Some(Why::Uneven);
        }
    }
    None
}

fn unwanted(nodes: &Nodes, node: &NodeState, shape: &Shape, identity: &Identity) -> Option<Why> {
    let wanted = &shape.coupling.affinity;
    if let Some(term) = wanted.iter().find(|term| !node.labels.contains_key(&term.topology_key)) {
        return Some(Why::NoDomain(term.topology_key.clone()));
    }
    let friends: Vec<&NodeState> = everyone(nodes)
        .filter(|(_, pod)| pod.stage != Stage::Coming && wanted.iter().all(|term| term.matches(&pod.identity)))
        .map(|(there, _)| there)
        .collect();
    let beside = wanted.iter().all(|term| friends.iter().any(|there| together(&term.topology_key, there, node)));
    let first = friends.iter().all(|there| wanted.iter().all(|term| !there.labels.contains_key(&term.topology_key)))
        && wanted.iter().all(|term| term.matches(identity));
    if !beside && !first {
        return Some(Why::NotBeside);
    }
    let clash = |terms: &[PodTerm], who: &Identity, there: &NodeState| {
        terms.iter().any(|term| term.matches(who) && together(&term.topology_key, there, node))
    };
    if everyone(nodes).any(|(there, pod)| clash(&shape.coupling.anti_affinity, &pod.identity, there)) {
        return Some(Why::Repels);
    }
    everyone(nodes)
        .any(|(there, pod)| clash(&pod.shape.coupling.anti_affinity, identity, there))
        .then_some(Why::Repelled)
}

fn why_not(nodes: &Nodes, node: &NodeState, shape: &Shape, identity: &Identity) -> Option<Why> {
    let alone = |id: &String| shape.volumes.exclusive.iter().any(|mine| mine.anywhere && mine.id == *id);
    let taken = nodes.all_occupants().any(|(_, pod)| pod.shape.volumes.exclusive.iter().any(|one| alone(&one.id)));
    taken
        .then_some(Why::VolumeTaken)
        .or_else(|| uneven(nodes, node, shape, identity))
        .or_else(|| unwanted(nodes, node, shape, identity))
}

fn any_selector() -> impl Strategy<Value = Selector> {
    prop_oneof![
        6 => (0..3u8).prop_map(|value| app(&value.to_string())),
        1 => Just(Selector::All(vec![])),
        1 => Just(Selector::Nothing),
    ]
}

fn any_term() -> impl Strategy<Value = PodTerm> {
    let namespaces = prop_oneof![
        4 => Just((vec!["n".to_owned()], Selector::Nothing)),
        1 => Just((vec![], is("team", "m"))),
        1 => Just((vec![], Selector::All(vec![]))),
    ];
    (prop_oneof![Just(HOST), Just(ZONE)], any_selector(), namespaces).prop_map(|(key, pods, (names, selector))| {
        PodTerm {
            topology_key: key.into(),
            pods,
            namespaces: names.into_iter().collect(),
            namespace_selector: selector,
        }
    })
}

fn any_spread() -> impl Strategy<Value = Spread> {
    let flags = (prop::bool::weighted(0.8), any::<bool>(), any::<bool>());
    (prop_oneof![Just(HOST), Just(ZONE)], 1..3i32, any_selector(), 1..4i32, flags).prop_map(
        |(key, max_skew, pods, min_domains, (required, honor_affinity, honor_taints))| Spread {
            topology_key: key.into(),
            max_skew,
            pods,
            required,
            min_domains,
            honor_affinity,
            honor_taints,
        },
    )
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let coupling = (
        prop::collection::vec(any_term(), 0..2),
        prop::collection::vec(any_term(), 0..2),
        prop::collection::vec((-100..100i32, any_term()), 0..2),
        prop::collection::vec(any_spread(), 0..4),
    );
    let volume = prop::option::weighted(0.1, any::<bool>());
    (coupling, any::<bool>(), volume).prop_map(|((affinity, anti_affinity, preferred, spread), picky, volume)| {
        let mut shape = shape(Coupling { affinity, anti_affinity, preferred, spread });
        if picky {
            shape.node_selector.insert("pool".into(), "p".into());
        }
        let volume = volume.map(|anywhere| ExclusiveVolume { id: "v".into(), read_only: true, anywhere });
        shape.volumes.exclusive.extend(volume);
        shape
    })
}

fn any_identity() -> impl Strategy<Value = Identity> {
    (prop_oneof![3 => Just("n"), 1 => Just("m")], 0..3u8).prop_map(|(namespace, app)| who(namespace, &app.to_string()))
}

fn any_occupant() -> impl Strategy<Value = (usize, Occupant)> {
    let plain = prop_oneof![2 => Just(Shape::default()), 1 => any_shape()];
    let stage = prop_oneof![4 => Just(Stage::Bound), 1 => Just(Stage::Terminating), 1 => Just(Stage::Coming)];
    (0..6usize, plain, any_identity(), stage).prop_map(|(node, shape, identity, stage)| {
        (node, Occupant { shape: Arc::new(shape), identity: Arc::new(identity), stage })
    })
}

fn any_nodes() -> impl Strategy<Value = Nodes> {
    let zone = prop::option::weighted(0.8, 0..3u8);
    prop::collection::vec((zone, prop::bool::weighted(0.9), any::<bool>(), prop::bool::weighted(0.2)), 1..6).prop_map(
        |all| {
            let mut nodes = Nodes::default();
            for (at, (zone, named, pool, tainted)) in all.into_iter().enumerate() {
                let mut state = node(&at.to_string(), &[]);
                state.labels.extend(zone.map(|zone| (ZONE.to_owned(), zone.to_string())));
                state.labels.extend(named.then(|| (HOST.to_owned(), at.to_string())));
                state.labels.extend(pool.then(|| ("pool".to_owned(), "p".to_owned())));
                let taint = Taint { key: "k".into(), value: String::new(), effect: Effect::NoExecute };
                state.taints.extend(tainted.then_some(taint));
                nodes.set(state);
            }
            nodes
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn surroundings_say_what_the_definitions_say_however_they_came_about(
        mut nodes in any_nodes(),
        first in prop::collection::vec(any_occupant(), 0..6),
        then in prop::collection::vec((any_occupant(), any::<bool>()), 0..6),
        relabelled in prop::option::weighted(0.2, 0..6usize),
        shape in any_shape(),
        identity in any_identity(),
        other in any_identity(),
    ) {
        let (shape, identity, other) = (Arc::new(shape), Arc::new(identity), Arc::new(other));
        let mut ids = Vec::new();
        for (node, occupant) in first {
            ids.push(nodes.put(&node.to_string(), occupant));
        }
        let mut surroundings = Surroundings::new(&nodes, &shape, &identity);
        for ((node, occupant), stays) in then {
            ids.push(nodes.put(&node.to_string(), occupant));
            if !stays {
                nodes.take_off(ids.swap_remove(node % ids.len()));
            }
        }
        if let Some(at) = relabelled {
            nodes.set(node(&at.to_string(), &[(HOST, &at.to_string()), (ZONE, "2")]));
        }
        surroundings.follow(&nodes);
        for (identity, turned) in [(&identity, false), (&other, true)] {
            if turned {
                surroundings.turn_to(&nodes, identity);
            }
            let anew = Surroundings::new(&nodes, &shape, identity);
            for (ix, node, _) in nodes.iter() {
                let why = why_not(&nodes, node, &shape, identity);
                prop_assert_eq!(surroundings.why_not(&nodes, ix), why.clone(), "told of changes");
                prop_assert_eq!(anew.why_not(&nodes, ix), why.clone(), "made anew");
                prop_assert_eq!(surroundings.score(&nodes, ix), anew.score(&nodes, ix));
                prop_assert!(why.is_none() || is_coupled(&nodes, &shape, identity));
            }
        }
    }
}
