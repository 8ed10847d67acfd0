// Charts are well-formed XML whatever comes in, their ticks are round, and no two texts overlap.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "falconet/base/file.h"
#include "falconet/base/svg.h"

using namespace falconet;

namespace {

// Throws on text that is not well-formed as far as SVG charts go: tags nest, attributes are quoted, entities are known.
void expect_well_formed(std::string const& text) {
  std::vector<std::string> open;
  for (std::size_t at = 0; at < text.size();) {
    if (text[at] == '&') {
      bool known = false;
      for (char const* entity : {"&lt;", "&gt;", "&amp;", "&quot;"}) known |= text.compare(at, std::string(entity).size(), entity) == 0;
      ASSERT_TRUE(known) << text.substr(at, 20);
    }
    ASSERT_TRUE(static_cast<unsigned char>(text[at]) >= 0x20 || text[at] == '\n');
    if (text[at] != '<') {
      ++at;
      continue;
    }
    auto const end = text.find('>', at);
    ASSERT_NE(end, std::string::npos);
    std::string const tag = text.substr(at + 1, end - at - 1);
    ASSERT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    if (tag[0] == '/') {
      ASSERT_FALSE(open.empty());
      ASSERT_EQ(open.back(), tag.substr(1));
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end + 1;
  }
  EXPECT_TRUE(open.empty());
  EXPECT_EQ(text.find("nan"), std::string::npos);
  EXPECT_EQ(text.find("inf"), std::string::npos);
}

struct Box {
  double x1, y1, x2, y2;
  std::string text;
};

double attribute(std::string const& tag, std::string const& name) {
  auto const at = tag.find(" " + name + "=\"");
  return at == std::string::npos ? 0 : std::atof(tag.c_str() + at + name.size() + 3);
}

// Bounding boxes of the upright and upended texts, by the narrow widths of Helvetica.
std::vector<Box> texts(std::string const& svg) {
  std::vector<Box> out;
  for (auto at = svg.find("<text"); at != std::string::npos; at = svg.find("<text", at + 1)) {
    auto const end = svg.find('>', at);
    std::string const tag = svg.substr(at, end - at), text = svg.substr(end + 1, svg.find('<', end) - end - 1);
    double characters = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (text[i] == '&') i = text.find(';', i);
      characters += (static_cast<unsigned char>(text[i]) & 0xC0) != 0x80;
    }
    double const x = attribute(tag, "x"), y = attribute(tag, "y"), size = attribute(tag, "font-size"), width = characters * size * 0.5;
    double const before = tag.find("\"middle\"") != std::string::npos ? width / 2 : tag.find("\"end\"") != std::string::npos ? width : 0;
    if (tag.find("rotate(-90") != std::string::npos) out.push_back({x - size * 0.7, y - (width - before), x, y + before, text});
    else if (tag.find("rotate") == std::string::npos) out.push_back({x - before, y - size * 0.7, x + width - before, y, text});
  }
  return out;
}

void expect_no_overlap(std::string const& svg) {
  auto const boxes = texts(svg);
  double const width = attribute(svg, "width"), height = attribute(svg, "height");
  for (std::size_t i = 0; i < boxes.size(); ++i) {
    auto const& a = boxes[i];
    EXPECT_TRUE(a.x1 >= 0 && a.y1 >= 0 && a.x2 <= width && a.y2 <= height) << "'" << a.text << "' leaves the picture";
    for (std::size_t k = i + 1; k < boxes.size(); ++k) {
      auto const& b = boxes[k];
      EXPECT_FALSE(a.x1 < b.x2 && b.x1 < a.x2 && a.y1 < b.y2 && b.y1 < a.y2) << "'" << a.text << "' and '" << b.text << "' overlap";
    }
  }
}

void check(std::string const& name, std::string const& svg) {
  SCOPED_TRACE(name);
  expect_well_formed(svg);
  expect_no_overlap(svg);
  if (char const* folder = std::getenv("FALCONET_KEEP_SVG")) write_atomically(std::string(folder) + "/" + name + ".svg", svg);
}

double const nan_value = std::numeric_limits<double>::quiet_NaN(), infinity = std::numeric_limits<double>::infinity();

svg::LineChart training() {
  svg::LineChart chart{.title = "mnist_cnn on MNIST: best val 0.9893 in epoch 12", .x_label = "epoch", .y_label = "loss", .right_label = "accuracy"};
  svg::Line train{"train loss", {}, {}}, val{"val loss", {}, {}}, accuracy{"val accuracy", {}, {}, true};
  for (int e = 1; e <= 15; ++e) {
    train.x.push_back(e), val.x.push_back(e), accuracy.x.push_back(e);
    train.y.push_back(0.35 / e + 0.01), val.y.push_back(0.2 / e + 0.04 + 0.004 * (e % 3)), accuracy.y.push_back(0.99 - 0.03 / e - 0.001 * (e % 3));
  }
  chart.lines = {train, val, accuracy};
  return chart;
}

}  // namespace

TEST(Svg, TrainingCurvesHaveTwoAxes) { check("training", svg::draw(training())); }

TEST(Svg, LogAxesNameDecades) {
  svg::LineChart chart{.title = "time against size", .x_label = "channels", .y_label = "microseconds", .log_x = true, .log_y = true};
  for (int a = 0; a < 4; ++a) {
    svg::Line line{"algorithm " + std::to_string(a), {}, {}, false, a == 3};
    for (double c = 1; c <= 512; c *= 2) line.x.push_back(c), line.y.push_back(std::pow(c, 1 + 0.3 * a) * (4 - a));
    chart.lines.push_back(line);
  }
  auto const text = svg::draw(chart);
  check("log", text);
  EXPECT_NE(text.find(">1000<"), std::string::npos);
}

TEST(Svg, AnAxisOfLessThanADecadeStillHasTicks) {
  svg::LineChart chart{.title = "narrow", .x_label = "x", .y_label = "y", .log_y = true};
  chart.lines = {{"a", {1, 2, 3}, {20, 30, 45}}};
  auto const text = svg::draw(chart);
  check("narrow_log", text);
  for (char const* tick : {">20<", ">50<"}) EXPECT_NE(text.find(tick), std::string::npos);
}

TEST(Svg, AHundredThousandPointsStaySmallAndKeepTheirExtremes) {
  svg::LineChart chart{.title = "loss of every step", .x_label = "step", .y_label = "loss"};
  svg::Line line{"loss", {}, {}};
  for (int i = 0; i < 100000; ++i) line.x.push_back(i), line.y.push_back(2.3 * std::exp(-i / 20000.0) + 0.1 * std::sin(i * 12.9898));
  line.y[50000] = 5;
  chart.lines = {line};
  auto const text = svg::draw(chart);
  check("steps", text);
  EXPECT_LT(text.size(), 60000u);
  EXPECT_NE(text.find(">5<"), std::string::npos);
}

TEST(Svg, ManySeriesWithLongNamesWrapTheirLegend) {
  svg::LineChart chart = training();
  for (int i = 0; i < 12; ++i) chart.lines.push_back({"a run with a rather long name, number " + std::to_string(i), {1, 15}, {0.1 * i, 0.2}});
  chart.title = std::string(300, 'W');
  check("legend", svg::draw(chart));
}

TEST(Svg, ManyGroupsGoIntoPanelsWithWholeLabels) {
  svg::BarChart chart{.title = "conv", .y_label = "microseconds", .categories = {}, .log_y = true};
  chart.bars = {{"naive", {}}, {"direct", {}}, {"limit", {}}};
  for (int p = 0; p < 138; ++p) {
    chart.categories.push_back("bwd_filter n32 c" + std::to_string(1000 + p) + " hw56 k256 rs3 p1 st2 f32 nhwc, 2 threads");
    for (auto& b : chart.bars) b.values.push_back(p == 70 ? 1e5 : 10 + p);
  }
  auto const text = svg::draw(chart);
  check("panels", text);
  for (auto const& label : chart.categories) EXPECT_NE(text.find(">" + label + "<"), std::string::npos) << label;
  EXPECT_LT(std::stod(text.substr(text.find("width=\"") + 7)), 2000);
  svg::HeatMap const counts{.title = "c", .x_label = "", .y_label = "", .rows = {"a", "b"}, .columns = {"a", "b"}, .values = {1131, 0, 2, 980}};
  EXPECT_NE(svg::draw(counts).find(">1,131<"), std::string::npos);
}

TEST(Svg, GroupedBarsOnALogAxis) {
  svg::BarChart chart{.title = "conv, forward: microseconds by algorithm", .y_label = "microseconds", .categories = {}, .log_y = true};
  for (int p = 0; p < 8; ++p) chart.categories.push_back("n=64 c=" + std::to_string(16 << p) + " h=28 w=28 k=64 r=3 s=3 pad=1");
  for (int a = 0; a < 4; ++a) {
    svg::Bars bars{std::vector{"naive", "im2col_gemm", "direct", "limit"}[std::size_t(a)], {}};
    for (int p = 0; p < 8; ++p) bars.values.push_back(p == 2 && a == 2 ? nan_value : 9000.0 / std::pow(4, a) * (p + 1));
    chart.bars.push_back(bars);
  }
  check("bars", svg::draw(chart));
}

TEST(Svg, BarsWithShortNamesAndNegativeValues) {
  check("bars_short", svg::draw(svg::BarChart{.title = "change", .y_label = "percent", .categories = {"conv", "pool", "fc"}, .bars = {{"a", {3, -2, 0.5}}, {"b", {1, 2, -3}}}}));
  check("bars_one", svg::draw(svg::BarChart{.title = "recall", .y_label = "recall", .categories = {"cat", "dog"}, .bars = {{"recall", {0.91, 0.874}}}}));
}

TEST(Svg, ConfusionMatricesOfAnySize) {
  for (int n : {2, 10, 40, 100}) {
    svg::HeatMap map{.title = "confusion", .x_label = "predicted", .y_label = "true", .rows = {}, .columns = {}};
    for (int r = 0; r < n; ++r) {
      map.rows.push_back(n == 10 ? std::vector{"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}[std::size_t(r)]
                                 : "class " + std::to_string(r));
      for (int c = 0; c < n; ++c) map.values.push_back(r == c ? 970 - r : (r * 7 + c * 3) % 5 == 0 ? (r + c) % 30 : 0);
    }
    map.columns = map.rows;
    check("confusion" + std::to_string(n), svg::draw(map));
  }
}

TEST(Svg, StrangeInputStaysWellFormed) {
  std::string const strange = "<a & \"b\"> \xFF\x01\xC3( é 猫 \xED\xA0\x80\n";
  svg::LineChart chart{.title = strange, .x_label = strange, .y_label = strange, .right_label = strange};
  chart.lines = {{strange, {0, 1, 2, nan_value, 4}, {nan_value, 1, infinity, 3, -infinity}}, {"", {}, {}, true}, {"uneven", {1, 2, 3}, {1}}};
  check("strange", svg::draw(chart));
  check("empty", svg::draw(svg::LineChart{.title = "", .x_label = "", .y_label = ""}));
  check("empty_log", svg::draw(svg::LineChart{.title = "t", .x_label = "", .y_label = "", .log_x = true, .log_y = true}));
  check("constant", svg::draw(svg::LineChart{.title = "t", .x_label = "x", .y_label = "y", .lines = {{"a", {5}, {1e-300}}, {"b", {5}, {7}}}}));
  check("huge", svg::draw(svg::LineChart{.title = "t", .x_label = "x", .y_label = "y", .lines = {{"a", {-1e300, 1e300}, {1e307, -1e307}}}}));
  check("no_bars", svg::draw(svg::BarChart{.title = strange, .y_label = "", .categories = {}}));
  check("bars_without_values", svg::draw(svg::BarChart{.title = "t", .y_label = "", .categories = {"a", strange}, .bars = {{"x", {}}}, .log_y = true}));
  check("no_cells", svg::draw(svg::HeatMap{.title = "t", .x_label = "x", .y_label = "y", .rows = {}, .columns = {}}));
  check("few_cells", svg::draw(svg::HeatMap{.title = "t", .x_label = "x", .y_label = "y", .rows = {"a", strange}, .columns = {"b"}, .values = {nan_value}}));
  EXPECT_EQ(svg::escape("<&>\"\x01\xFF"), "&lt;&amp;&gt;&quot;\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(svg::escape("é猫😀"), "é猫😀");
}

TEST(Svg, TicksAreRound) {
  EXPECT_EQ(svg::round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  auto const ticks = svg::round_ticks(0.137, 0.94, 4);
  ASSERT_EQ(ticks.size(), 4u);
  EXPECT_NEAR(ticks[0], 0.2, 1e-12);
  EXPECT_NEAR(ticks[3], 0.8, 1e-12);
  EXPECT_EQ(svg::round_ticks(3, 3, 5).size(), 1u);
}
