use super::*;

fn index() -> PrefixIndex {
    PrefixIndex::new(IndexBudget::new(BYTES_PER_BLOCK * 1000))
}

fn matched(index: &PrefixIndex, keys: &[u64], slots: u32) -> Vec<u32> {
    let mut lookup = Lookup::default();
    index.look_up(keys, &mut lookup);
    (0..slots).map(|slot| lookup.matched(slot)).collect()
}

#[test]
fn finds_the_longest_prefix_of_each_endpoint() {
    let index = index();
    index.insert(0, &[1, 2, 3]);
    index.insert(1, &[1, 2, 30, 40]);
    index.insert(3, &[9]);
    assert_eq!(matched(&index, &[1, 2, 3, 4], 4), [3, 2, 0, 0]);
    assert_eq!(matched(&index, &[9], 4), [0, 0, 0, 1]);
    assert_eq!(matched(&index, &[2, 3], 4), [2, 1, 0, 0], "the index knows no chains, only keys");
    assert_eq!(matched(&index, &[], 4), [0; 4]);
    assert_eq!(matched(&index, &[7], 4), [0; 4]);
}

#[test]
fn a_block_of_many_endpoints_is_found_at_all() {
    let index = index();
    for slot in 0..100 {
        index.insert(slot, &[1, 2, 1000 + u64::from(slot)]);
    }
    let expected: Vec<u32> = (0..100).map(|slot| if slot == 42 { 3 } else { 2 }).collect();
    assert_eq!(matched(&index, &[1, 2, 1042], 100), expected);
}

#[test]
fn a_full_endpoint_evicts_the_last_blocks_of_the_oldest_prompt() {
    let index = index();
    index.set_capacity(0, Some(4));
    index.insert(0, &[1, 2]);
    index.insert(0, &[11, 12]);
    index.insert(0, &[1]);
    index.insert(0, &[21]);
    assert_eq!(index.blocks(0), 4);
    assert_eq!(matched(&index, &[1, 2], 1), [1]);
    assert_eq!(matched(&index, &[11, 12], 1), [2]);
    index.set_capacity(0, Some(1));
    assert_eq!((index.blocks(0), matched(&index, &[21], 1)), (1, vec![1]));
}

#[test]
fn a_prompt_larger_than_the_cache_keeps_its_first_blocks() {
    let index = index();
    index.set_capacity(0, Some(2));
    index.insert(0, &[1, 2, 3]);
    assert_eq!(matched(&index, &[1, 2, 3], 1), [2]);
}

#[test]
fn a_cleared_endpoint_holds_nothing() {
    let index = index();
    index.insert(0, &[1, 2]);
    index.insert(1, &[1]);
    assert!(index.is_held(2));
    index.clear(0);
    assert_eq!(matched(&index, &[1, 2], 2), [0, 1]);
    assert!(index.is_held(1) && !index.is_held(2));
    assert_eq!(index.blocks(0), 0);
}

#[test]
fn all_indexes_share_one_budget() {
    const BLOCKS: usize = 1000;
    let budget = IndexBudget::new(BYTES_PER_BLOCK * BLOCKS);
    let fill = |index: &PrefixIndex| {
        for prompt in 0..10_000_u64 {
            index.insert(0, &[prompt * 10, prompt * 10 + 1]);
        }
    };
    let first = PrefixIndex::new(Arc::clone(&budget));
    fill(&first);
    assert_eq!(first.blocks(0), BLOCKS * 3 / 4);
    assert_eq!(matched(&first, &[99_990, 99_991], 1), [2], "the newest prompt replaces the oldest");
    let second = PrefixIndex::new(Arc::clone(&budget));
    for _ in 0..5 {
        fill(&second);
        fill(&first);
    }
    let held = (first.blocks(0), second.blocks(0));
    assert!(held.0.abs_diff(held.1) <= BLOCKS / 10, "{held:?}");
    assert!(held.0 + held.1 <= BLOCKS, "{held:?}");
    drop((first, second));
    assert_eq!(budget.left.load(Relaxed), BLOCKS, "blocks of dropped indexes are returned");
}

#[test]
fn agrees_with_a_simple_model() {
    let mut random = fastrand::Rng::with_seed(7);
    let index = index();
    for slot in 0..6 {
        index.set_capacity(slot, Some(20));
    }
    // By endpoint: keys, least recently used first.
    let mut model: Vec<Vec<u64>> = vec![Vec::new(); 6];
    for _ in 0..5000 {
        let keys: Vec<u64> = (0..random.u64(1..6))
            .scan(0, |key, _| {
                *key = *key * 3 + random.u64(1..3);
                Some(*key)
            })
            .collect();
        let expected: Vec<u32> = model
            .iter()
            .map(|held| keys.iter().take_while(|key| held.contains(key)).count() as u32)
            .collect();
        assert_eq!(matched(&index, &keys, 6), expected);
        let slot = random.u32(0..6);
        index.insert(slot, &keys);
        let held = &mut model[slot as usize];
        for key in keys.iter().rev() {
            held.retain(|it| it != key);
            held.push(*key);
            if held.len() > 20 {
                held.remove(0);
            }
        }
    }
}

#[test]
fn finds_ends_anywhere_in_a_long_prompt() {
    let mut random = fastrand::Rng::with_seed(11);
    let index = PrefixIndex::new(IndexBudget::new(BYTES_PER_BLOCK * 1_000_000));
    let prompt: Vec<u64> = (1..=500).collect();
    let held: Vec<usize> = (0..150).map(|_| random.usize(0..=prompt.len())).collect();
    for (slot, blocks) in (0..).zip(&held) {
        index.insert(slot, &prompt[..*blocks]);
        // A branch of its own.
        let branch: Vec<u64> = prompt[..blocks / 2].iter().copied().chain([1000 + u64::from(slot)]).collect();
        index.insert(slot, &branch);
    }
    for end in [0, 1, 2, 3, 100, 333, 500] {
        let expected: Vec<u32> = held.iter().map(|blocks| (*blocks).min(end) as u32).collect();
        assert_eq!(matched(&index, &prompt[..end], 150), expected, "{end} blocks");
    }
}
