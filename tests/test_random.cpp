// Random bits are those of the Philox paper, and draws are pure functions with the distributions they promise.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "falconet/base/random.h"

using namespace falconet;

namespace {
std::array<std::uint32_t, 4> words(RandomBits b) { return {b.word[0], b.word[1], b.word[2], b.word[3]}; }
}  // namespace

TEST(Random, PhiloxGivesTheKnownAnswersOfItsAuthors) {   // kat_vectors of Random123, "philox4x32 10"
  using Words = std::array<std::uint32_t, 4>;
  EXPECT_EQ(words(philox4x32({{0, 0, 0, 0}}, {0, 0})), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(words(philox4x32({{~0u, ~0u, ~0u, ~0u}}, {~0u, ~0u})), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(words(philox4x32({{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}}, {0xa4093822, 0x299f31d0})),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, HashIsFnv1a) {
  EXPECT_EQ(hash(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(hash("a"), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(hash("foobar"), 0x85944171f73967e8ull);
}

TEST(Random, DifferentPlacesGiveDifferentBits) {
  std::set<std::array<std::uint32_t, 4>> seen;
  for (std::uint64_t seed : {0, 1, 2})
    for (char const* stream : {"a", "b", "layer1.0.dropout"})
      for (std::uint64_t a : {0ull, 1ull, 1ull << 32, 1ull << 63})
        for (std::uint64_t b : {0ull, 1ull, 1ull << 32, 1ull << 63}) seen.insert(words(draw(random_key(seed, hash(stream)), a, b)));
  EXPECT_EQ(seen.size(), 3u * 3 * 4 * 4);
}

TEST(Random, UniformCoversZeroToBelowOneEvenly) {
  EXPECT_EQ(uniform(0), 0.0f);
  EXPECT_EQ(uniform(~0u), 1.0f - 0x1p-24f);
  std::vector<float> values(200000);
  fill_uniform(values, random_key(1, hash("test")), 0, -1, 3);
  int bins[16] = {};
  for (float v : values) {
    ASSERT_GE(v, -1);
    ASSERT_LT(v, 3);
    ++bins[int((v + 1) * 4)];
  }
  double chi2 = 0, expected = values.size() / 16.0;
  for (int count : bins) chi2 += (count - expected) * (count - expected) / expected;
  EXPECT_LT(chi2, 37.7);   // 15 degrees of freedom, probability 0.001
}

TEST(Random, NormalHasMeanZeroDeviationOneAndTheRightTails) {
  std::vector<float> values(400000);
  fill_normal(values, random_key(7, hash("test")), 3, 0, 1);
  double sum = 0, squares = 0, cubes = 0, fourths = 0;
  int beyond2 = 0;
  for (double v : values) {
    ASSERT_TRUE(std::isfinite(v));
    sum += v, squares += v * v, cubes += v * v * v, fourths += v * v * v * v;
    beyond2 += std::abs(v) > 2;
  }
  double const n = double(values.size());
  EXPECT_NEAR(sum / n, 0, 4 / std::sqrt(n));
  EXPECT_NEAR(squares / n, 1, 4 * std::sqrt(2 / n));
  EXPECT_NEAR(cubes / n, 0, 4 * std::sqrt(15 / n));
  EXPECT_NEAR(fourths / n, 3, 4 * std::sqrt(96 / n));
  EXPECT_NEAR(beyond2 / n, 0.0455, 0.0015);
  EXPECT_TRUE(std::isfinite(normals({{0, 0, 0, 0}})[0]) && std::isfinite(normals({{~0u, ~0u, ~0u, ~0u}})[0]));
}

TEST(Random, AFillIsAFunctionOfTheElementAlone) {
  std::vector<float> long_one(1003), short_one(17);
  fill_normal(long_one, random_key(1, 2), 3, 0.5f, 2);
  fill_normal(short_one, random_key(1, 2), 3, 0.5f, 2);
  EXPECT_TRUE(std::equal(short_one.begin(), short_one.end(), long_one.begin()));
}

TEST(Random, BoundedStaysInItsBoundsAndIsEven) {
  EXPECT_EQ(bounded(0, 10), 0u);
  EXPECT_EQ(bounded(~0ull, 10), 9u);
  EXPECT_EQ(bounded(~0ull, ~0u), ~0u - 1);
  EXPECT_EQ(bounded(1ull << 63, ~0u), ~0u / 2);
  int counts[7] = {};
  for (int i = 0; i < 70000; ++i) {
    auto const bits = draw(random_key(3, 4), 0, std::uint64_t(i));
    ++counts[bounded(wide_bits(bits.word[0], bits.word[1]), 7)];
  }
  for (int count : counts) EXPECT_NEAR(count, 10000, 400);
}

TEST(Random, APermutationHoldsEveryNumberOnceAndDependsOnSeedAndEpoch) {
  auto const p = permutation(1000, 1, 0);
  auto sorted = p;
  std::sort(sorted.begin(), sorted.end());
  for (std::uint32_t i = 0; i < 1000; ++i) ASSERT_EQ(sorted[i], i);
  EXPECT_EQ(p, permutation(1000, 1, 0));
  EXPECT_NE(p, permutation(1000, 2, 0));
  EXPECT_NE(p, permutation(1000, 1, 1));
  EXPECT_TRUE(permutation(0, 1, 0).empty());
  EXPECT_EQ(permutation(1, 1, 0), std::vector<std::uint32_t>{0});
}

TEST(Random, EveryOrderOfFourIsEquallyLikely) {
  std::map<std::vector<std::uint32_t>, int> counts;
  for (int epoch = 0; epoch < 24000; ++epoch) ++counts[permutation(4, 9, std::uint64_t(epoch))];
  ASSERT_EQ(counts.size(), 24u);
  for (auto const& [order, count] : counts) EXPECT_NEAR(count, 1000, 150);
}
