//! MD5 over 64-byte blocks, of one message or of up to sixteen at once: each message in a lane of the vector
//! registers. MD5 is a chain of 64 dependent steps a block, so that one message leaves most of a core idle.
//!
//! The only `unsafe` of the hashes stands here. The steps are written once, over [`Words`]; what differs is how
//! a register adds, rotates, and is filled.

/// The most lanes.
pub const MOST: usize = 16;
/// Bytes of a block.
pub const BLOCK: usize = 64;

/// What the MD5 of no bytes starts from (RFC 1321, 3.3).
pub const START: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

/// The four words of an MD5 between two blocks.
pub type State = [u32; 4];

/// The sine table (RFC 1321, 3.4).
#[rustfmt::skip]
const SINES: [u32; 64] = [
    0xd76a_a478, 0xe8c7_b756, 0x2420_70db, 0xc1bd_ceee, 0xf57c_0faf, 0x4787_c62a, 0xa830_4613, 0xfd46_9501,
    0x6980_98d8, 0x8b44_f7af, 0xffff_5bb1, 0x895c_d7be, 0x6b90_1122, 0xfd98_7193, 0xa679_438e, 0x49b4_0821,
    0xf61e_2562, 0xc040_b340, 0x265e_5a51, 0xe9b6_c7aa, 0xd62f_105d, 0x0244_1453, 0xd8a1_e681, 0xe7d3_fbc8,
    0x21e1_cde6, 0xc337_07d6, 0xf4d5_0d87, 0x455a_14ed, 0xa9e3_e905, 0xfcef_a3f8, 0x676f_02d9, 0x8d2a_4c8a,
    0xfffa_3942, 0x8771_f681, 0x6d9d_6122, 0xfde5_380c, 0xa4be_ea44, 0x4bde_cfa9, 0xf6bb_4b60, 0xbebf_bc70,
    0x289b_7ec6, 0xeaa1_27fa, 0xd4ef_3085, 0x0488_1d05, 0xd9d4_d039, 0xe6db_99e5, 0x1fa2_7cf8, 0xc4ac_5665,
    0xf429_2244, 0x432a_ff97, 0xab94_23a7, 0xfc93_a039, 0x655b_59c3, 0x8f0c_cc92, 0xffef_f47d, 0x8584_5dd1,
    0x6fa8_7e4f, 0xfe2c_e6e0, 0xa301_4314, 0x4e08_11a1, 0xf753_7e82, 0xbd3a_f235, 0x2ad7_d2bb, 0xeb86_d391,
];

/// Which registers are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// None: one message after the other.
    Portable,
    /// Eight lanes of AVX2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// Eight or sixteen lanes of AVX-512 (F and VL), which rotates and mixes in one instruction each.
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// Four lanes of NEON.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Kernel {
    /// All that this processor has, the fastest last.
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                all.push(Self::Avx2);
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
                    all.push(Self::Avx512);
                }
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            all.push(Self::Neon);
        }
        all
    }

    /// The one of this name (`portable`, `avx2`, `avx512`, `neon`), else the fastest.
    pub fn chosen(name: Option<&str>) -> Self {
        let all = Self::all();
        let named = |kernel: &&Self| {
            let own = format!("{kernel:?}");
            name.is_some_and(|name| own.eq_ignore_ascii_case(name))
        };
        let best = all.last().copied().unwrap_or(Self::Portable);
        all.iter().find(named).copied().unwrap_or(best)
    }

    /// Takes the blocks of each message into its state. All messages have the same number of whole blocks.
    ///
    /// # Panics
    /// Where they have not, and where there are more than [`MOST`], or more states than messages.
    pub fn compress(self, states: &mut [State], messages: &[&[u8]]) {
        assert!(states.len() == messages.len() && states.len() <= MOST);
        let length = messages.first().map_or(0, |message| message.len());
        assert!(length.is_multiple_of(BLOCK));
        assert!(messages.iter().all(|message| message.len() == length));
        let blocks = length / BLOCK;
        if blocks == 0 {
            return;
        }
        if let [state] = states {
            return portable(state, messages[0]);
        }
        let (run, lanes): (Run, usize) = match self {
            Self::Portable => {
                for (state, message) in states.iter_mut().zip(messages) {
                    portable(state, message);
                }
                return;
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => (x86::avx2, 8),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 if states.len() <= 8 => (x86::avx512_of_eight, 8),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => (x86::avx512, MOST),
            #[cfg(target_arch = "aarch64")]
            Self::Neon => (arm::neon, 4),
        };
        // A lane without a message repeats the first one's, and what comes of it is dropped.
        for (states, messages) in states.chunks_mut(lanes).zip(messages.chunks(lanes)) {
            let mut together = [[0; MOST]; 4];
            let mut heads = [messages[0].as_ptr(); MOST];
            for (lane, (state, message)) in states.iter().zip(messages).enumerate() {
                heads[lane] = message.as_ptr();
                for (words, word) in together.iter_mut().zip(state) {
                    words[lane] = *word;
                }
            }
            // SAFETY: `all` gave this kernel, so the processor has what it needs; each message has `blocks` blocks.
            unsafe { run(&mut together, &heads, blocks) };
            for (lane, state) in states.iter_mut().enumerate() {
                *state = std::array::from_fn(|word| together[word][lane]);
            }
        }
    }
}

/// One message, without vectors.
pub fn portable(state: &mut State, message: &[u8]) {
    for block in message.chunks_exact(BLOCK) {
        let words = std::array::from_fn(|at| {
            u32::from_le_bytes(block[at * 4..][..4].try_into().expect("four bytes"))
        });
        let [a, b, c, d] = *state;
        // SAFETY: whole numbers need nothing of the processor.
        let done = unsafe { rounds([a, b, c, d], &words) };
        for (word, more) in state.iter_mut().zip(done) {
            *word = word.wrapping_add(more);
        }
    }
}

/// States with the words of all lanes together.
type Together = [[u32; MOST]; 4];
/// Where each lane's blocks begin.
type Heads = [*const u8; MOST];

/// Takes that many blocks of each lane.
type Run = unsafe fn(&mut Together, &Heads, usize);

/// A register with one word of each lane. The methods are unsafe because a processor may lack them.
trait Words: Copy {
    unsafe fn all(word: u32) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
    /// Rotates to the left; both counts, since a constant cannot be computed of a constant.
    unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self;
    /// Adds F, G, H or I of RFC 1321 (`ROUND` 0 to 3).
    unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self;
}

/// The sixty-four steps of a block.
#[inline(always)]
unsafe fn rounds<W: Words>([mut a, mut b, mut c, mut d]: [W; 4], words: &[W; 16]) -> [W; 4] {
    macro_rules! step {
        ($round:literal, $a:ident $b:ident $c:ident $d:ident, $step:expr, $word:expr, $left:literal) => {
            // SAFETY: as the caller's.
            $a = unsafe {
                let sum = $a.plus(words[$word % 16]).plus(W::all(SINES[$step]));
                let sum = sum.plus_mixed::<$round>($b, $c, $d);
                $b.plus(sum.rotated::<$left, { 32 - $left }>())
            };
        };
    }
    macro_rules! four {
        ($round:literal, $from:expr, $times:literal $plus:literal, $w:literal $x:literal $y:literal $z:literal) => {
            step!($round, a b c d, $from, $times * $from + $plus, $w);
            step!($round, d a b c, $from + 1, $times * ($from + 1) + $plus, $x);
            step!($round, c d a b, $from + 2, $times * ($from + 2) + $plus, $y);
            step!($round, b c d a, $from + 3, $times * ($from + 3) + $plus, $z);
        };
    }
    macro_rules! round {
        ($round:literal, $times:literal $plus:literal, $w:literal $x:literal $y:literal $z:literal) => {
            four!($round, $round * 16, $times $plus, $w $x $y $z);
            four!($round, $round * 16 + 4, $times $plus, $w $x $y $z);
            four!($round, $round * 16 + 8, $times $plus, $w $x $y $z);
            four!($round, $round * 16 + 12, $times $plus, $w $x $y $z);
        };
    }
    round!(0, 1 0, 7 12 17 22);
    round!(1, 5 1, 5 9 14 20);
    round!(2, 3 5, 4 11 16 23);
    round!(3, 7 0, 6 10 15 21);
    [a, b, c, d]
}

/// All blocks of all lanes; `load` gives block N's sixteen words of each lane.
#[inline(always)]
unsafe fn all_blocks<W: Words>(
    mut state: [W; 4],
    blocks: usize,
    load: impl Fn(usize) -> [W; 16],
) -> [W; 4] {
    for block in 0..blocks {
        // SAFETY: as the caller's.
        unsafe {
            let [a, b, c, d] = rounds(state, &load(block));
            state = [
                state[0].plus(a),
                state[1].plus(b),
                state[2].plus(c),
                state[3].plus(d),
            ];
        }
    }
    state
}

impl Words for u32 {
    #[inline(always)]
    unsafe fn all(word: u32) -> Self {
        word
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        self.wrapping_add(other)
    }

    #[inline(always)]
    unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self {
        self.rotate_left(LEFT as u32)
    }

    #[inline(always)]
    unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self {
        match ROUND {
            0 => self.wrapping_add(((c ^ d) & b) ^ d),
            // The halves have no bit in common: added one after the other, the older one waits for nothing.
            1 => self.wrapping_add(!d & c).wrapping_add(d & b),
            2 => self.wrapping_add((c ^ d) ^ b),
            _ => self.wrapping_add(c ^ (b | !d)),
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, __m512i, _mm256_add_epi32, _mm256_and_si256, _mm256_loadu_si256, _mm256_or_si256,
        _mm256_permute2x128_si256, _mm256_rol_epi32, _mm256_set1_epi32, _mm256_slli_epi32,
        _mm256_srli_epi32, _mm256_storeu_si256, _mm256_ternarylogic_epi32, _mm256_unpackhi_epi32,
        _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64, _mm256_xor_si256,
        _mm512_add_epi32, _mm512_loadu_si512, _mm512_rol_epi32, _mm512_set1_epi32,
        _mm512_shuffle_i32x4, _mm512_storeu_si512, _mm512_ternarylogic_epi32,
        _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
    };

    use super::{BLOCK, Heads, MOST, Together, Words, all_blocks};

    /// Eight words, AVX2.
    #[derive(Clone, Copy)]
    struct Eight(__m256i);
    /// Eight words, AVX-512VL.
    #[derive(Clone, Copy)]
    struct EightVl(__m256i);
    /// Sixteen words, AVX-512F.
    #[derive(Clone, Copy)]
    struct Sixteen(__m512i);

    /// # Safety
    /// AVX2; eight heads with `blocks` blocks behind each.
    #[target_feature(enable = "avx2")]
    pub unsafe fn avx2(states: &mut Together, heads: &Heads, blocks: usize) {
        // SAFETY: the arrays are longer than a register; the heads are the caller's word.
        unsafe {
            let state = load_eight(states).map(Eight);
            let done = all_blocks(state, blocks, |block| {
                words_of_eight(heads, block).map(Eight)
            });
            store_eight(states, done.map(|words| words.0));
        }
    }

    /// # Safety
    /// AVX2, AVX-512F and VL; eight heads with `blocks` blocks behind each.
    #[target_feature(enable = "avx2,avx512f,avx512vl")]
    pub unsafe fn avx512_of_eight(states: &mut Together, heads: &Heads, blocks: usize) {
        // SAFETY: the arrays are longer than a register; the heads are the caller's word.
        unsafe {
            let state = load_eight(states).map(EightVl);
            let done = all_blocks(state, blocks, |block| {
                words_of_eight(heads, block).map(EightVl)
            });
            store_eight(states, done.map(|words| words.0));
        }
    }

    /// # Safety
    /// AVX-512F; sixteen heads with `blocks` blocks behind each.
    #[target_feature(enable = "avx512f")]
    pub unsafe fn avx512(states: &mut Together, heads: &Heads, blocks: usize) {
        // SAFETY: the arrays are a register long; the heads are the caller's word.
        unsafe {
            let state = [0, 1, 2, 3]
                .map(|word: usize| Sixteen(_mm512_loadu_si512(states[word].as_ptr().cast())));
            let done = all_blocks(state, blocks, |block| {
                words_of_sixteen(heads, block).map(Sixteen)
            });
            for (words, register) in states.iter_mut().zip(done) {
                _mm512_storeu_si512(words.as_mut_ptr().cast(), register.0);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn load_eight(states: &Together) -> [__m256i; 4] {
        // SAFETY: each array is longer than a register.
        [0, 1, 2, 3].map(|word: usize| unsafe { _mm256_loadu_si256(states[word].as_ptr().cast()) })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn store_eight(states: &mut Together, registers: [__m256i; 4]) {
        for (words, register) in states.iter_mut().zip(registers) {
            // SAFETY: each array is longer than a register.
            unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), register) };
        }
    }

    /// The words of one block of each of eight lanes: two tables of 8 x 8, turned.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn words_of_eight(heads: &Heads, block: usize) -> [__m256i; 16] {
        let [first, second] = [0, 32].map(|half| {
            // SAFETY: a block is two registers long.
            turn_eight(std::array::from_fn(|lane| unsafe {
                _mm256_loadu_si256(heads[lane].add(block * BLOCK + half).cast())
            }))
        });
        std::array::from_fn(|word| match word {
            0..8 => first[word],
            _ => second[word - 8],
        })
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn turn_eight(rows: [__m256i; 8]) -> [__m256i; 8] {
        let mut pairs = rows; // of words
        let mut fours = rows;
        let mut turned = rows;
        for row in 0..4 {
            pairs[row * 2] = _mm256_unpacklo_epi32(rows[row * 2], rows[row * 2 + 1]);
            pairs[row * 2 + 1] = _mm256_unpackhi_epi32(rows[row * 2], rows[row * 2 + 1]);
        }
        for half in [0, 4] {
            for high in [0, 1] {
                let (one, two) = (pairs[half + high], pairs[half + 2 + high]);
                fours[half + high * 2] = _mm256_unpacklo_epi64(one, two);
                fours[half + high * 2 + 1] = _mm256_unpackhi_epi64(one, two);
            }
        }
        for column in 0..4 {
            let (one, two) = (fours[column], fours[column + 4]);
            turned[column] = _mm256_permute2x128_si256::<0x20>(one, two);
            turned[column + 4] = _mm256_permute2x128_si256::<0x31>(one, two);
        }
        turned
    }

    /// The words of one block of each of sixteen lanes: a table of 16 x 16, turned.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn words_of_sixteen(heads: &Heads, block: usize) -> [__m512i; MOST] {
        // SAFETY: a block is a register long.
        let rows: [__m512i; MOST] = std::array::from_fn(|lane| unsafe {
            _mm512_loadu_si512(heads[lane].add(block * BLOCK).cast())
        });
        let mut pairs = rows; // of words
        let mut fours = rows;
        let mut turned = rows;
        for row in 0..8 {
            pairs[row * 2] = _mm512_unpacklo_epi32(rows[row * 2], rows[row * 2 + 1]);
            pairs[row * 2 + 1] = _mm512_unpackhi_epi32(rows[row * 2], rows[row * 2 + 1]);
        }
        for quarter in [0, 4, 8, 12] {
            for high in [0, 1] {
                let (one, two) = (pairs[quarter + high], pairs[quarter + 2 + high]);
                fours[quarter + high * 2] = _mm512_unpacklo_epi64(one, two);
                fours[quarter + high * 2 + 1] = _mm512_unpackhi_epi64(one, two);
            }
        }
        // Now quarter Q of `fours[4 * R + C]` has word 4 * Q + C of the lanes 4 * R and up.
        for column in 0..4 {
            let (one, two) = (fours[column], fours[column + 4]);
            let (three, four) = (fours[column + 8], fours[column + 12]);
            let even = _mm512_shuffle_i32x4::<0x88>(one, two);
            let odd = _mm512_shuffle_i32x4::<0xdd>(one, two);
            let evens = _mm512_shuffle_i32x4::<0x88>(three, four);
            let odds = _mm512_shuffle_i32x4::<0xdd>(three, four);
            turned[column] = _mm512_shuffle_i32x4::<0x88>(even, evens);
            turned[column + 4] = _mm512_shuffle_i32x4::<0x88>(odd, odds);
            turned[column + 8] = _mm512_shuffle_i32x4::<0xdd>(even, evens);
            turned[column + 12] = _mm512_shuffle_i32x4::<0xdd>(odd, odds);
        }
        turned
    }

    #[expect(
        unsafe_op_in_unsafe_fn,
        reason = "the methods are instructions: the trait says where they may be called"
    )]
    impl Words for Eight {
        #[inline(always)]
        unsafe fn all(word: u32) -> Self {
            Self(_mm256_set1_epi32(word.cast_signed()))
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            Self(_mm256_add_epi32(self.0, other.0))
        }

        #[inline(always)]
        unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self {
            let (left, right) = (
                _mm256_slli_epi32::<LEFT>(self.0),
                _mm256_srli_epi32::<REST>(self.0),
            );
            Self(_mm256_or_si256(left, right))
        }

        #[inline(always)]
        unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self {
            let (b, c, d) = (b.0, c.0, d.0);
            let mixed = match ROUND {
                0 => _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(c, d), b), d),
                1 => _mm256_xor_si256(_mm256_and_si256(_mm256_xor_si256(b, c), d), c),
                2 => _mm256_xor_si256(_mm256_xor_si256(c, d), b),
                _ => {
                    let inverse = _mm256_xor_si256(d, _mm256_set1_epi32(-1));
                    _mm256_xor_si256(c, _mm256_or_si256(b, inverse))
                }
            };
            self.plus(Self(mixed))
        }
    }

    #[expect(
        unsafe_op_in_unsafe_fn,
        reason = "the methods are instructions: the trait says where they may be called"
    )]
    impl Words for EightVl {
        #[inline(always)]
        unsafe fn all(word: u32) -> Self {
            Self(_mm256_set1_epi32(word.cast_signed()))
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            Self(_mm256_add_epi32(self.0, other.0))
        }

        #[inline(always)]
        unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self {
            Self(_mm256_rol_epi32::<LEFT>(self.0))
        }

        #[inline(always)]
        unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self {
            let (b, c, d) = (b.0, c.0, d.0);
            // The truth tables of F, G, H and I.
            let mixed = match ROUND {
                0 => _mm256_ternarylogic_epi32::<0xca>(b, c, d),
                1 => _mm256_ternarylogic_epi32::<0xe4>(b, c, d),
                2 => _mm256_ternarylogic_epi32::<0x96>(b, c, d),
                _ => _mm256_ternarylogic_epi32::<0x39>(b, c, d),
            };
            self.plus(Self(mixed))
        }
    }

    #[expect(
        unsafe_op_in_unsafe_fn,
        reason = "the methods are instructions: the trait says where they may be called"
    )]
    impl Words for Sixteen {
        #[inline(always)]
        unsafe fn all(word: u32) -> Self {
            Self(_mm512_set1_epi32(word.cast_signed()))
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            Self(_mm512_add_epi32(self.0, other.0))
        }

        #[inline(always)]
        unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self {
            Self(_mm512_rol_epi32::<LEFT>(self.0))
        }

        #[inline(always)]
        unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self {
            let (b, c, d) = (b.0, c.0, d.0);
            let mixed = match ROUND {
                0 => _mm512_ternarylogic_epi32::<0xca>(b, c, d),
                1 => _mm512_ternarylogic_epi32::<0xe4>(b, c, d),
                2 => _mm512_ternarylogic_epi32::<0x96>(b, c, d),
                _ => _mm512_ternarylogic_epi32::<0x39>(b, c, d),
            };
            self.plus(Self(mixed))
        }
    }
}

#[cfg(target_arch = "aarch64")]
mod arm {
    use std::arch::aarch64::{
        uint32x4_t, vaddq_u32, vbslq_u32, vdupq_n_u32, veorq_u32, vld1q_u8, vld1q_u32, vornq_u32,
        vorrq_u32, vreinterpretq_u32_u8, vreinterpretq_u32_u64, vreinterpretq_u64_u32, vshlq_n_u32,
        vshrq_n_u32, vst1q_u32, vtrn1q_u32, vtrn1q_u64, vtrn2q_u32, vtrn2q_u64,
    };

    use super::{BLOCK, Heads, Together, Words, all_blocks};

    #[derive(Clone, Copy)]
    struct Four(uint32x4_t);

    /// # Safety
    /// NEON; four heads with `blocks` blocks behind each.
    #[target_feature(enable = "neon")]
    pub unsafe fn neon(states: &mut Together, heads: &Heads, blocks: usize) {
        // SAFETY: the arrays are longer than a register; the heads are the caller's word.
        unsafe {
            let state = [0, 1, 2, 3].map(|word: usize| Four(vld1q_u32(states[word].as_ptr())));
            let done = all_blocks(state, blocks, |block| words_of_four(heads, block).map(Four));
            for (words, register) in states.iter_mut().zip(done) {
                vst1q_u32(words.as_mut_ptr(), register.0);
            }
        }
    }

    /// The words of one block of each of four lanes: four tables of 4 x 4, turned.
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn words_of_four(heads: &Heads, block: usize) -> [uint32x4_t; 16] {
        let mut words = [vdupq_n_u32(0); 16];
        for quarter in 0..4 {
            // SAFETY: a block is four registers long.
            let rows: [uint32x4_t; 4] = std::array::from_fn(|lane| unsafe {
                vreinterpretq_u32_u8(vld1q_u8(heads[lane].add(block * BLOCK + quarter * 16)))
            });
            let pairs = [
                vtrn1q_u32(rows[0], rows[1]),
                vtrn2q_u32(rows[0], rows[1]),
                vtrn1q_u32(rows[2], rows[3]),
                vtrn2q_u32(rows[2], rows[3]),
            ]
            .map(|pair| vreinterpretq_u64_u32(pair));
            let turned = [
                vtrn1q_u64(pairs[0], pairs[2]),
                vtrn1q_u64(pairs[1], pairs[3]),
                vtrn2q_u64(pairs[0], pairs[2]),
                vtrn2q_u64(pairs[1], pairs[3]),
            ];
            for (at, row) in turned.into_iter().enumerate() {
                words[quarter * 4 + at] = vreinterpretq_u32_u64(row);
            }
        }
        words
    }

    #[expect(
        unsafe_op_in_unsafe_fn,
        reason = "the methods are instructions: the trait says where they may be called"
    )]
    impl Words for Four {
        #[inline(always)]
        unsafe fn all(word: u32) -> Self {
            Self(vdupq_n_u32(word))
        }

        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            Self(vaddq_u32(self.0, other.0))
        }

        #[inline(always)]
        unsafe fn rotated<const LEFT: i32, const REST: i32>(self) -> Self {
            Self(vorrq_u32(
                vshlq_n_u32::<LEFT>(self.0),
                vshrq_n_u32::<REST>(self.0),
            ))
        }

        #[inline(always)]
        unsafe fn plus_mixed<const ROUND: usize>(self, b: Self, c: Self, d: Self) -> Self {
            let (b, c, d) = (b.0, c.0, d.0);
            let mixed = match ROUND {
                0 => vbslq_u32(b, c, d),
                1 => vbslq_u32(d, b, c),
                2 => veorq_u32(veorq_u32(c, d), b),
                _ => veorq_u32(c, vornq_u32(b, d)),
            };
            self.plus(Self(mixed))
        }
    }
}
