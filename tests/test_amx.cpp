// The emulated tiles of AMX mean what the manual says of the instructions, and `amx`, which runs on them here, is never chosen unless it is asked
// for.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "falconet/device/cpu/amx.h"
#include "falconet/device/cpu/isa.h"
#include "falconet/ops/conv/algorithms.h"

namespace {
using namespace falconet;

// One product of `rows` x `columns` sums over `pairs`, through the tiles.
template <class Tiles>
std::vector<float> product(std::vector<std::uint16_t> const& a, std::vector<std::uint16_t> const& b, std::vector<float> sums, int rows, int columns, int pairs) {
  amx::TileConfig config;
  config.set(0, rows, 4 * columns), config.set(3, rows, 4 * pairs), config.set(4, pairs, 4 * columns);
  Tiles tiles;
  tiles.configure(config);
  tiles.template load<0>(sums.data(), 4 * columns);
  tiles.template load<3>(a.data(), 4 * pairs);
  tiles.template load<4>(b.data(), 4 * columns);
  tiles.template multiply<0, 3, 4>();
  tiles.template store<0>(sums.data(), 4 * columns);
  tiles.release();
  return sums;
}
std::vector<std::uint16_t> random_bf16(std::size_t n, unsigned seed) {
  std::mt19937 bits(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> out(n);
  for (auto& v : out) v = to_bf16(normal(bits)).bits;
  return out;
}

TEST(EmulatedTiles, AddProductsOfEvenAndOddElementsApartAndRoundOnce) {
  for (auto [rows, columns, pairs] : {std::array{16, 16, 16}, std::array{3, 16, 7}, std::array{16, 5, 1}, std::array{1, 1, 16}}) {
    auto const a = random_bf16(std::size_t(rows) * std::size_t(pairs) * 2, 1), b = random_bf16(std::size_t(pairs) * std::size_t(columns) * 2, 2);
    std::vector<float> sums(std::size_t(rows) * std::size_t(columns), 0.25f), expected = sums;
    for (int m = 0; m < rows; ++m)
      for (int n = 0; n < columns; ++n) {
        float part[2] = {0, 0};
        for (int k = 0; k < pairs; ++k)
          for (int i = 0; i < 2; ++i) {
            float const x = to_float(bf16{a[std::size_t((m * pairs + k) * 2 + i)]}), y = to_float(bf16{b[std::size_t((k * columns + n) * 2 + i)]});
            part[i] = std::fma(x, y, part[i]);
          }
        expected[std::size_t(m * columns + n)] += part[0] + part[1];
      }
    EXPECT_EQ(product<amx::EmulatedTiles>(a, b, sums, rows, columns, pairs), expected) << rows << " x " << columns << " x " << pairs;
#if defined(__x86_64__)
    if (has_amx()) {
      EXPECT_EQ(product<amx::HardwareTiles>(a, b, sums, rows, columns, pairs), expected) << "by the instructions: " << rows << " x " << columns << " x " << pairs;
    }
#endif
  }
}

TEST(EmulatedTiles, TakeSubnormalsAsZeroAndPassNaNAndInfinityOn) {
  std::uint16_t const one = 0x3f80, tiny = 0x0001, small = 0x0080, infinite = 0x7f80;   // small: 2^-126
  auto const of = [](std::uint16_t a0, std::uint16_t a1, std::uint16_t b0, std::uint16_t b1, float sum) { return product<amx::EmulatedTiles>({a0, a1}, {b0, b1}, {sum}, 1, 1, 1)[0]; };
  EXPECT_EQ(of(tiny, 0, one, 0, 0), 0.0f);                            // a subnormal factor
  EXPECT_EQ(of(small, 0, 0x3f00, 0, 0), 0.0f);                        // 2^-126 / 2: a subnormal result
  EXPECT_EQ(of(small, 0, one, 0, 0), 0x1p-126f);
  EXPECT_EQ(of(one, one, one, one, 0x1p-140f), 2.0f);                 // what is there, too
  EXPECT_EQ(of(infinite, 0, one, 0, 1), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(of(infinite, 0, 0, 0, 1)));
}

TEST(EmulatedTiles, GiveNaNWhereShapesDoNotFitAndTheProcessorWouldFault) {
  amx::TileConfig config;
  config.set(0, 2, 8), config.set(3, 2, 8), config.set(4, 1, 8);      // a has two pairs a row, b one row of pairs
  amx::EmulatedTiles tiles;
  tiles.configure(config);
  tiles.multiply<0, 3, 4>();
  float sums[4] = {};
  tiles.store<0>(sums, 8);
  for (float v : sums) EXPECT_TRUE(std::isnan(v));
}

TEST(Amx, IsEmulatedAndLeftOutOfPlansWhereTheProcessorHasNone) {
  DeviceFacts facts;
  facts.isa = Isa::avx2;
  for (char const* text : {"n2 c16 hw9 k16 rs3 p1 bf16 nhwc", "bwd_data n2 c16 hw9 k16 rs3 p1 bf16 nhwc", "bwd_filter n2 c16 hw9 k16 rs3 p1 bf16,f32,bf16 nhwc"})
    for (auto const& c : conv_algorithms().candidates(text, facts)) {
      if (c.algorithm != "amx") {
        EXPECT_EQ(c.unasked, "") << c.algorithm;
        continue;
      }
      EXPECT_EQ(c.refusal, "") << text;
      EXPECT_NE(c.unasked.find("no AMX"), std::string::npos) << text;
      EXPECT_EQ(c.configs, std::vector{(Config{{"emulated", 1}})});
    }
}

}  // namespace
