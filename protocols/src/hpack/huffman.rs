//! Huffman-coded strings, RFC 7541 section 5.2.

use bytes::BufMut;

use super::{HpackError, huffman_codes::CODES};

/// How many octets [`encode`] writes for `text`.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&octet| usize::from(CODES[usize::from(octet)].1)).sum();
    bits.div_ceil(8)
}

/// Appends `text`, padded to an octet with the beginning of EOS, which is ones.
pub(super) fn encode(text: &[u8], out: &mut impl BufMut) {
    // Holds at most 7 bits left over from before and one code of at most 30.
    let mut bits: u64 = 0;
    let mut bits_held = 0;
    for &octet in text {
        let (code, length) = CODES[usize::from(octet)];
        bits = bits << length | u64::from(code);
        bits_held += u32::from(length);
        while bits_held >= 8 {
            bits_held -= 8;
            out.put_u8((bits >> bits_held) as u8);
        }
    }
    if bits_held > 0 {
        let padding_bits = 8 - bits_held;
        out.put_u8((bits << padding_bits) as u8 | ((1 << padding_bits) - 1));
    }
}

/// Decodes a whole string. The shortest code has 5 bits, so the result is at most 8/5 of the input.
pub(super) fn decode(encoded: &[u8]) -> Result<Vec<u8>, HpackError> {
    let mut text = Vec::with_capacity(encoded.len() * 8 / 5);
    let mut state = ROOT;
    let mut may_end = true;
    for octet in encoded {
        for nibble in [octet >> 4, octet & 0xf] {
            let step = &STEPS[usize::from(state)][usize::from(nibble)];
            if step.flags & EOS != 0 {
                return Err(HpackError::HuffmanEos);
            }
            if step.flags & SYMBOL != 0 {
                text.push(step.symbol);
            }
            state = step.next;
            may_end = step.flags & MAY_END != 0;
        }
    }
    if may_end { Ok(text) } else { Err(HpackError::HuffmanPadding) }
}

/// What four bits do in one state. A state is an inner node of the code tree; as the shortest code has
/// 5 bits, four bits complete at most one symbol.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    symbol: u8,
    flags: u8,
}

/// The step completed `symbol`.
const SYMBOL: u8 = 1;
/// The string may end here: the bits since the last symbol are at most 7 and all ones.
const MAY_END: u8 = 2;
/// The step completed EOS, which is an error (section 5.2).
const EOS: u8 = 4;

const ROOT: u8 = 0;
const EOS_SYMBOL: u16 = 256;
const INNER_NODES: usize = 256;

static STEPS: [[Step; 16]; INNER_NODES] = steps();

/// A child in the code tree: a leaf if this bit is set, else an inner node.
const LEAF: u16 = 0x8000;

const fn steps() -> [[Step; 16]; INNER_NODES] {
    let (tree, may_end) = tree();
    let mut steps = [[Step { next: 0, symbol: 0, flags: 0 }; 16]; INNER_NODES];
    let mut state = 0;
    while state < INNER_NODES {
        let mut nibble = 0;
        while nibble < 16 {
            steps[state][nibble] = step(&tree, &may_end, state, nibble);
            nibble += 1;
        }
        state += 1;
    }
    steps
}

const fn step(
    tree: &[[u16; 2]; INNER_NODES],
    may_end: &[bool; INNER_NODES],
    state: usize,
    nibble: usize,
) -> Step {
    let mut step = Step { next: 0, symbol: 0, flags: 0 };
    let mut node = state;
    let mut bit = 4;
    while bit > 0 {
        bit -= 1;
        let child = tree[node][(nibble >> bit) & 1];
        if child & LEAF == 0 {
            node = child as usize;
            continue;
        }
        let symbol = child & !LEAF;
        step.flags |= if symbol == EOS_SYMBOL { EOS } else { SYMBOL };
        step.symbol = symbol as u8;
        node = ROOT as usize;
    }
    step.next = node as u8;
    if may_end[node] {
        step.flags |= MAY_END;
    }
    step
}

/// The code tree, and which of its nodes are reached from the root by at most 7 ones.
const fn tree() -> ([[u16; 2]; INNER_NODES], [bool; INNER_NODES]) {
    let mut tree = [[0; 2]; INNER_NODES];
    let mut nodes = 1;
    let mut symbol = 0;
    while symbol < CODES.len() {
        let (code, length) = CODES[symbol];
        let mut node = 0;
        let mut bit = length;
        while bit > 1 {
            bit -= 1;
            let side = (code >> bit & 1) as usize;
            if tree[node][side] == 0 {
                tree[node][side] = nodes;
                nodes += 1;
            }
            node = tree[node][side] as usize;
        }
        tree[node][(code & 1) as usize] = LEAF | symbol as u16;
        symbol += 1;
    }
    let mut may_end = [false; INNER_NODES];
    let mut node = 0;
    let mut ones = 0;
    while ones <= 7 {
        may_end[node] = true;
        node = tree[node][1] as usize;
        ones += 1;
    }
    (tree, may_end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_comes_back() {
        let text: Vec<u8> = (0..=255).collect();
        let mut encoded = Vec::new();
        encode(&text, &mut encoded);
        assert_eq!(encoded.len(), encoded_len(&text));
        assert_eq!(decode(&encoded).as_deref(), Ok(&*text));
    }

    #[test]
    fn padding_is_at_most_seven_ones() {
        // '0' is 00000: three bits of padding.
        assert_eq!(decode(&[0b0000_0111]).as_deref(), Ok(&b"0"[..]));
        assert_eq!(decode(&[0b0000_0110]), Err(HpackError::HuffmanPadding));
        assert_eq!(decode(&[0b0000_0000]), Err(HpackError::HuffmanPadding));
        // A whole octet of padding is one bit too many, with and without a symbol before it.
        assert_eq!(decode(&[0xff]), Err(HpackError::HuffmanPadding));
        assert_eq!(decode(&[0b0000_0111, 0xff]), Err(HpackError::HuffmanPadding));
        // '~' (13 bits 1_1111_1111_1101) and three ones.
        assert_eq!(decode(&[0b1111_1111, 0b1110_1111]).as_deref(), Ok(&b"~"[..]));
    }

    #[test]
    fn eos_inside_a_string_is_refused() {
        assert_eq!(decode(&[0xff, 0xff, 0xff, 0xff]), Err(HpackError::HuffmanEos));
    }
}
