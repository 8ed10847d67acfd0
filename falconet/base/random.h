// Counter-based random bits: a draw is a pure function of (seed, stream, a, b), so it does not depend on the order of draws, on
// threads or on devices. Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// The first half is plain code for kernels (host and device, no standard headers but stdint); the second half is host only.
#pragma once
#include <stdint.h>

#ifdef __CUDACC__
#define FALCONET_HOST_DEVICE __host__ __device__
#else
#define FALCONET_HOST_DEVICE
#endif

namespace falconet {

struct RandomBits {
  uint32_t word[4];
};

// Which sequence: made once from the run's seed and the hash of a name ("layer1.0.dropout", "data.shuffle").
struct RandomKey {
  uint32_t low, high;
};

FALCONET_HOST_DEVICE static inline RandomBits philox4x32(RandomBits counter, RandomKey key) {
  uint32_t c0 = counter.word[0], c1 = counter.word[1], c2 = counter.word[2], c3 = counter.word[3];
  uint32_t k0 = key.low, k1 = key.high;
  for (int round = 0; round < 10; ++round) {
    uint64_t const p0 = uint64_t(0xD2511F53u) * c0, p1 = uint64_t(0xCD9E8D57u) * c2;
    c0 = uint32_t(p1 >> 32) ^ c1 ^ k0;
    c1 = uint32_t(p1);
    c2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c3 = uint32_t(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return RandomBits{{c0, c1, c2, c3}};
}

// A bijection of 64 bits that spreads every input bit over all output bits (two xor-shift-multiply rounds).
FALCONET_HOST_DEVICE static inline uint64_t mix_bits(uint64_t v) {
  v = (v ^ (v >> 32)) * 0xD6E8FEB86659FD93ull;
  v = (v ^ (v >> 29)) * 0xA0761D6478BD642Full;
  return v ^ (v >> 32);
}

FALCONET_HOST_DEVICE static inline RandomKey random_key(uint64_t seed, uint64_t stream) {
  uint64_t const key = mix_bits(seed + 0x9E3779B97F4A7C15ull * mix_bits(stream));
  return RandomKey{uint32_t(key), uint32_t(key >> 32)};
}

// 128 bits for the place (a, b) of a stream: a is say the step or the epoch, b the element or the sample.
FALCONET_HOST_DEVICE static inline RandomBits draw(RandomKey key, uint64_t a, uint64_t b) {
  return philox4x32(RandomBits{{uint32_t(b), uint32_t(b >> 32), uint32_t(a), uint32_t(a >> 32)}}, key);
}

// Uniform in [0, 1): the upper 24 bits, all exactly representable.
FALCONET_HOST_DEVICE static inline float uniform(uint32_t bits) { return float(bits >> 8) * 0x1p-24f; }

FALCONET_HOST_DEVICE static inline uint64_t wide_bits(uint32_t low, uint32_t high) { return uint64_t(high) << 32 | low; }

// An integer in [0, n), n >= 1, from 64 bits: floor(bits * n / 2^64). No result is likelier than another by more than n / 2^64.
FALCONET_HOST_DEVICE static inline uint32_t bounded(uint64_t bits, uint32_t n) {
  uint64_t const low = (bits & 0xFFFFFFFFu) * n;
  return uint32_t(((bits >> 32) * n + (low >> 32)) >> 32);
}

}  // namespace falconet

#ifndef FALCONET_ISA
#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace falconet {

// FNV-1a of 64 bits: the stream of a name.
constexpr std::uint64_t hash(std::string_view text) {
  std::uint64_t h = 0xCBF29CE484222325ull;
  for (char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
  return h;
}

// Four independent values of the standard normal distribution (Box and Muller 1958), computed in double and rounded once.
std::array<float, 4> normals(RandomBits);

// out[i] is a function of (key, a, i) alone: uniform in [low, high), or normal with this mean and standard deviation.
void fill_uniform(std::span<float> out, RandomKey key, std::uint64_t a, float low, float high);
void fill_normal(std::span<float> out, RandomKey key, std::uint64_t a, float mean, float deviation);

// Fisher-Yates: reorders `items`; the same (key, a) gives the same order of the same number of items.
void shuffle(std::span<std::uint32_t> items, RandomKey key, std::uint64_t a);
std::vector<std::uint32_t> permutation(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch);   // of 0 .. n-1

}  // namespace falconet
#endif
