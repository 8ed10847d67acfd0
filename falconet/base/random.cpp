#include "falconet/base/random.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <utility>

namespace falconet {

std::array<float, 4> normals(RandomBits bits) {
  std::array<float, 4> out;
  for (int pair = 0; pair < 4; pair += 2) {
    double const u = (bits.word[pair] + 1.0) * 0x1p-32;   // (0, 1]: the logarithm is finite
    double const angle = 2 * std::numbers::pi * (bits.word[pair + 1] * 0x1p-32);
    double const radius = std::sqrt(-2 * std::log(u));
    out[pair] = float(radius * std::cos(angle));
    out[pair + 1] = float(radius * std::sin(angle));
  }
  return out;
}

void fill_uniform(std::span<float> out, RandomKey key, std::uint64_t a, float low, float high) {
  for (std::size_t i = 0; i < out.size(); i += 4) {
    RandomBits const bits = draw(key, a, i / 4);
    for (std::size_t j = i; j < out.size() && j < i + 4; ++j) {
      float const v = low + (high - low) * uniform(bits.word[j - i]);
      out[j] = v < high || low == high ? v : std::nextafter(high, low);   // the sum may round up to the open end
    }
  }
}

void fill_normal(std::span<float> out, RandomKey key, std::uint64_t a, float mean, float deviation) {
  for (std::size_t i = 0; i < out.size(); i += 4) {
    auto const values = normals(draw(key, a, i / 4));
    for (std::size_t j = i; j < out.size() && j < i + 4; ++j) out[j] = mean + deviation * values[j - i];
  }
}

void shuffle(std::span<std::uint32_t> items, RandomKey key, std::uint64_t a) {
  RandomBits bits{};
  for (std::size_t i = items.size(); i > 1; --i) {   // each draw serves two exchanges
    std::size_t const nth = items.size() - i;
    if (nth % 2 == 0) bits = draw(key, a, nth / 2);
    std::uint32_t const* half = bits.word + nth % 2 * 2;
    std::swap(items[i - 1], items[bounded(wide_bits(half[0], half[1]), std::uint32_t(i))]);
  }
}

std::vector<std::uint32_t> permutation(std::uint32_t n, std::uint64_t seed, std::uint64_t epoch) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0u);
  shuffle(order, random_key(seed, hash("permutation")), epoch);
  return order;
}

}  // namespace falconet
