#include "falconet/base/svg.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "falconet/base/format.h"

namespace falconet::svg {
namespace {

constexpr char const* ink = "#24292f";
constexpr char const* faint = "#6b7280";
constexpr char const* grid = "#e5e7eb";
constexpr std::array colours{"#2f6fde", "#e8702a", "#2a9d5c", "#b34fc5", "#d9a406", "#1fa3b8", "#d6336c", "#7a6a58", "#6fa8ff", "#5b5f97",
                              "#9aa63a", "#0b3d91", "#f4a6a0", "#00695c", "#8d5524", "#c7b3e5", "#546e7a", "#ff5d5d", "#3cc9a7", "#4a148c", "#b5651d", "#2e4057", "#e0b0ff", "#66a61e"};
char const* colour(std::size_t i) { return colours[i % colours.size()]; }

constexpr double nothing = std::numeric_limits<double>::quiet_NaN();
bool shows(double v, bool log) { return std::isfinite(v) && (!log || v > 0); }

// Length of the UTF-8 character that begins at `at`, 0 if the bytes there are none.
std::size_t character(std::string_view text, std::size_t at) {
  auto const lead = static_cast<unsigned char>(text[at]);
  std::size_t const length = lead < 0x80 ? 1 : lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if ((static_cast<unsigned char>(text[at + i]) & 0xC0) != 0x80) return 0;
  auto const second = length > 1 ? static_cast<unsigned char>(text[at + 1]) : 0u;
  bool const overlong = (lead == 0xE0 && second < 0xA0) || (lead == 0xF0 && second < 0x90);
  bool const outside = (lead == 0xED && second >= 0xA0) || (lead == 0xF4 && second >= 0x90);   // surrogates, beyond U+10FFFF
  return overlong || outside ? 0 : length;
}

// An upper estimate in pixels: the fonts of most systems are narrower than this.
double text_width(std::string_view text, double size) {
  double ems = 0;
  for (std::size_t at = 0; at < text.size(); at += std::max<std::size_t>(1, character(text, at))) {
    char const c = text[at];
    auto const in = [c](std::string_view set) { return set.find(c) != std::string_view::npos; };
    if (character(text, at) > 2) ems += 1.0;
    else if (in("iljI.,:;'|! ()[]tfr")) ems += 0.40;
    else if (in("mwMW@%")) ems += 0.98;
    else if (c >= 'A' && c <= 'Z') ems += 0.74;
    else ems += 0.62;
  }
  return ems * size;
}

std::string shortened(std::string const& text, double size, double room) {
  if (text_width(text, size) <= room) return text;
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const n = std::max<std::size_t>(1, character(text, at));
    if (text_width(out + text.substr(at, n), size) + size > room) break;
    out += text.substr(at, n);
    at += n;
  }
  return out + "…";
}

class Canvas {
 public:
  Canvas(double width, double height) : out_(head(width, height)) {}
  explicit Canvas(double down) : down_(down) {}   // a part of a picture, so many pixels down in it, without its head and end
  static std::string head(double width, double height) {
    return format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0:.0f} {1:.0f}\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
                  "font-family=\"Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n",
                  width, height);
  }
  // turn: degrees; the text is turned about (x, y), which is its start, middle or end.
  void text(double x, double y, std::string const& what, double size, char const* anchor, char const* fill = ink, double turn = 0, bool bold = false) {
    y += down_;
    std::string const turned = turn == 0 ? "" : format(" transform=\"rotate({:.0f} {:.1f} {:.1f})\"", turn, x, y);
    out_ += format("<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{:.1f}\" text-anchor=\"{}\" fill=\"{}\"{}{}>{}</text>\n", x, y, size, anchor, fill,
                   bold ? " font-weight=\"600\"" : "", turned, escape(what));
  }
  void line(double x1, double y1, double x2, double y2, char const* stroke, double width = 1) {
    out_ += format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\" stroke-width=\"{}\"/>\n", x1, y1 + down_, x2, y2 + down_, stroke, width);
  }
  void box(double x, double y, double width, double height, std::string_view fill, double round = 0) {
    out_ += format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"{}\" fill=\"{}\"/>\n", x, y + down_, width, height, round, fill);
  }
  void dot(double x, double y, double radius, char const* fill) {
    out_ += format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"{}\"/>\n", x, y + down_, radius, fill);
  }
  void ring(double x, double y, double radius, char const* stroke) {
    out_ += format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\"/>\n", x, y + down_, radius, stroke);
  }
  void path(std::string const& steps, char const* stroke, bool dashed, double width = 2) {   // where it says, never moved down
    if (steps.empty()) return;
    out_ += format("<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\" stroke-linecap=\"round\"{}/>\n", steps, stroke, width,
                   dashed ? " stroke-dasharray=\"7 5\"" : "");
  }
  void title(std::string const& what, double x, double room) {
    double const size = std::clamp(17 * room / std::max(1.0, text_width(what, 17)), 12.0, 17.0);
    text(x, 30, shortened(what, size, room), size, "start", ink, 0, true);
  }
  std::string part() { return std::move(out_); }
  std::string finish() { return part() + "</svg>\n"; }

 private:
  std::string out_;
  double down_ = 0;
};

// One axis: a range of values, its ticks and where they lie.
struct Axis {
  double low = 0, high = 1;
  bool log = false;
  std::vector<double> ticks, small_ticks;   // small ones have a line but no text
  std::vector<std::string> texts;
  double from = 0, to = 1;                  // pixels

  double at(double v) const {
    double const share = log ? std::log(v / low) / std::log(high / low) : (v - low) / (high - low);
    return from + (to - from) * std::clamp(share, 0.0, 1.0);
  }
  double widest(double size) const {
    double most = 0;
    for (auto const& t : texts) most = std::max(most, text_width(t, size));
    return most;
  }
};

std::string power_text(double v) {   // of a logarithmic axis
  double const a = std::abs(v);
  return a >= 1e-4 && a < 1e6 ? format("{:.6g}", v) : format("{:.0e}", v);
}

// Texts with as many decimals as the step between the ticks needs.
std::vector<std::string> tick_texts(std::vector<double> const& ticks) {
  double most = 0;
  for (double t : ticks) most = std::max(most, std::abs(t));
  double const step = ticks.size() > 1 ? std::abs(ticks[1] - ticks[0]) : std::max(most, 1.0);
  int const decimals = std::clamp(int(std::ceil(-std::log10(step) - 1e-9)), 0, 15);
  std::vector<std::string> out;
  for (double t : ticks) out.push_back(most >= 1e7 || step < 1e-6 ? format("{:.4g}", t) : format("{:.{}f}", std::abs(t) < step / 1e6 ? 0.0 : t, decimals));
  return out;
}

Axis log_axis(double low, double high, int count, bool widen) {
  Axis axis;
  axis.log = true;
  double const first = std::floor(std::log10(low) + 1e-9), last = std::ceil(std::log10(high) - 1e-9);
  int const decades = std::max(1, int(last - first));
  axis.low = std::pow(10, first);
  axis.high = std::pow(10, std::max(last, first + 1));
  std::vector<double> digits{1};
  if (decades <= 2) digits = {1, 2, 5};
  int const stride = std::max(1, (decades + count - 1) / count);
  for (int d = 0; d <= decades; ++d)
    for (double digit = 1; digit < 10; ++digit) {
      double const v = digit * std::pow(10, first + d);
      if (v > axis.high * 1.0001) break;
      bool const named = std::find(digits.begin(), digits.end(), digit) != digits.end() && d % stride == 0;
      if (named) axis.ticks.push_back(v);
      else if (decades <= 5) axis.small_ticks.push_back(v);
    }
  if (!widen && high > low) {
    auto const outside = [&](double v) { return v < low * 0.9999 || v > high * 1.0001; };
    if (std::count_if(axis.ticks.begin(), axis.ticks.end(), std::not_fn(outside)) >= 2) {
      std::erase_if(axis.ticks, outside);
      std::erase_if(axis.small_ticks, outside);
      axis.low = low;
      axis.high = high;
    }
  }
  for (double t : axis.ticks) axis.texts.push_back(power_text(t));
  return axis;
}

// widen: the range ends at ticks; otherwise it ends at the values and the ticks lie within.
Axis make_axis(std::vector<double> const& values, bool log, int count, bool widen, bool from_zero) {
  double low = nothing, high = nothing;
  for (double v : values)
    if (shows(v, log)) {
      low = low <= v ? low : v;
      high = high >= v ? high : v;
    }
  if (log) return std::isfinite(low) ? log_axis(low, high, count, widen) : log_axis(1, 10, count, true);
  if (!std::isfinite(low)) low = 0, high = 1;
  if (from_zero && low > 0) low = 0;
  if (from_zero && high < 0) high = 0;
  if (!(high - low > 1e-12 * std::max(std::abs(low), std::abs(high)))) {   // one value: some room around it
    double const room = low == 0 ? 1 : std::abs(low) / 2;
    high += room;
    low = from_zero && low >= 0 ? 0 : low - room;
  }
  Axis axis;
  axis.ticks = round_ticks(low, high, count);
  bool const whole = std::all_of(values.begin(), values.end(), [](double v) { return !std::isfinite(v) || v == std::floor(v); });
  if (whole && high - low >= 1) std::erase_if(axis.ticks, [](double t) { return std::abs(t - std::round(t)) > 1e-9; });   // epoch 1.5 is none
  if (widen && axis.ticks.size() > 1) {
    double const step = axis.ticks[1] - axis.ticks[0];
    if (axis.ticks.front() > low + step * 1e-9) axis.ticks.insert(axis.ticks.begin(), axis.ticks.front() - step);
    if (axis.ticks.back() < high - step * 1e-9) axis.ticks.push_back(axis.ticks.back() + step);
    low = std::min(low, axis.ticks.front());
    high = std::max(high, axis.ticks.back());
  }
  axis.low = low;
  axis.high = high;
  axis.texts = tick_texts(axis.ticks);
  return axis;
}

enum class Mark { box, line, dashed, dot, ring };

// Marks (boxes, if they are not said) with names, in as many rows as they need; returns the height. Without a canvas it only measures.
double legend(Canvas* canvas, std::vector<std::string> const& names, double left, double top, double room, std::vector<Mark> const& marks) {
  constexpr double size = 13, row = 22, mark = 24;
  double x = left, y = top;
  for (std::size_t i = 0; i < names.size(); ++i) {
    std::string const name = shortened(names[i], size, room - mark);
    double const width = mark + text_width(name, size) + 18;
    if (x > left && x + width > left + room + 18) {
      x = left;
      y += row;
    }
    if (canvas) {
      Mark const which = marks.empty() ? Mark::box : marks[i];
      if (which == Mark::box) canvas->box(x, y - 10, 14, 12, colour(i), 2);
      else if (which == Mark::dot) canvas->dot(x + 11, y - 4, 4, colour(i));
      else if (which == Mark::ring) canvas->ring(x + 11, y - 4, 4, colour(i));
      else canvas->path(format("M{:.1f} {:.1f}h17", x, y - 4), colour(i), which == Mark::dashed);
      canvas->text(x + mark, y, name, size, "start");
    }
    x += width;
  }
  return names.empty() ? 0 : y - top + row;
}

void draw_y_axis(Canvas& canvas, Axis const& axis, std::string const& label, double x, bool right, double grid_to, double label_x) {
  if (!right) {
    for (double v : axis.small_ticks) canvas.line(x, axis.at(v), grid_to, axis.at(v), "#f3f4f6");
    for (double v : axis.ticks) canvas.line(x, axis.at(v), grid_to, axis.at(v), grid);
  }
  for (std::size_t i = 0; i < axis.ticks.size(); ++i)
    canvas.text(right ? x + 8 : x - 8, axis.at(axis.ticks[i]) + 4, axis.texts[i], 12, right ? "start" : "end", faint);
  double const length = std::abs(axis.to - axis.from);
  if (!label.empty()) canvas.text(label_x, (axis.from + axis.to) / 2, shortened(label, 13, length), 13, "middle", ink, -90);
}

// The values as a path; a line with more points than the chart has pixels keeps the extremes of each pixel.
std::string path_of(Line const& line, Axis const& x, Axis const& y) {
  struct Point {
    double x, y;
  };
  std::vector<Point> points;
  std::size_t const count = std::min(line.x.size(), line.y.size());
  for (std::size_t i = 0; i < count; ++i) {
    bool const good = shows(line.x[i], x.log) && shows(line.y[i], y.log);
    points.push_back(good ? Point{x.at(line.x[i]), y.at(line.y[i])} : Point{nothing, nothing});
  }
  if (double(count) > 4 * std::abs(x.to - x.from)) {
    std::vector<Point> kept;
    for (std::size_t i = 0; i < count;) {
      std::size_t end = i, low = i, high = i;
      for (; end < count && std::floor(points[end].x) == std::floor(points[i].x); ++end) {
        if (points[end].y < points[low].y) low = end;
        if (points[end].y > points[high].y) high = end;
      }
      end = std::max(end, i + 1);   // a gap stays a gap
      std::size_t last = count;
      for (std::size_t k : {i, std::min(low, high), std::max(low, high), end - 1})
        if (k != last) kept.push_back(points[last = k]);
      i = end;
    }
    points = std::move(kept);
  }
  std::string out;
  bool pen = false;
  for (auto const& p : points) {
    bool const good = std::isfinite(p.y);
    if (good) out += format("{}{:.1f} {:.1f}", pen ? "L" : "M", p.x, p.y);
    pen = good;
  }
  return out;
}

void append(std::vector<double>& to, std::vector<double> const& from) { to.insert(to.end(), from.begin(), from.end()); }

// Loss and the like read best from zero, unless the values lie far above it.
bool near_zero(std::vector<double> const& values) {
  double low = nothing, high = nothing;
  for (double v : values)
    if (std::isfinite(v)) {
      low = low <= v ? low : v;
      high = high >= v ? high : v;
    }
  return low >= 0 && low < 0.4 * high;
}

std::string key_text(double v) {   // 0.25, 283, 1,131
  if (std::abs(v) < 999.5 || std::abs(v) >= 1e15) return format("{:.3g}", v);
  std::string text = format("{:.0f}", v);
  for (std::size_t at = text.size(); at > 3 + (v < 0);) text.insert(at -= 3, 1, ',');
  return text;
}

std::string mix(double t) {   // white to deep blue
  t = std::clamp(t, 0.0, 1.0);
  auto channel = [t](double light, double middle, double dark) {
    return int(std::lround(t < 0.5 ? light + (middle - light) * 2 * t : middle + (dark - middle) * (2 * t - 1)));
  };
  return format("#{:02x}{:02x}{:02x}", channel(247, 107, 8), channel(250, 160, 48), channel(255, 222, 107));
}

}  // namespace

std::string escape(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    std::size_t const n = character(text, at);
    char const c = text[at];
    bool const control = n == 1 && static_cast<unsigned char>(c) < 0x20;
    bool const noncharacter = n == 3 && (text.substr(at, 3) == "\xEF\xBF\xBE" || text.substr(at, 3) == "\xEF\xBF\xBF");
    if (n == 0 || control || noncharacter) out += c == '\n' || c == '\t' ? " " : "\xEF\xBF\xBD";
    else if (c == '<') out += "&lt;";
    else if (c == '>') out += "&gt;";
    else if (c == '&') out += "&amp;";
    else if (c == '"') out += "&quot;";
    else out += text.substr(at, n);
    at += std::max<std::size_t>(n, 1);
  }
  return out;
}

std::vector<double> round_ticks(double low, double high, int count) {
  if (!std::isfinite(low) || !std::isfinite(high) || !(high > low) || count < 1) return {low};
  double const rough = (high - low) / count, power = std::pow(10, std::floor(std::log10(rough)));
  double const share = rough / power, step = power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
  std::vector<double> out;
  for (double i = std::ceil(low / step - 1e-9); i * step <= high + step * 1e-9 && out.size() < 100; ++i) out.push_back(i * step);
  return out.empty() ? std::vector<double>{low} : out;
}

std::string draw(LineChart const& chart) {
  std::vector<double> xs, left_values, right_values;
  std::vector<std::string> names;
  std::vector<Mark> marks;
  bool has_right = false;
  for (auto const& l : chart.lines) {
    append(xs, l.x);
    append(l.right ? right_values : left_values, l.y);
    has_right |= l.right;
  }
  for (auto const& l : chart.lines) {
    names.push_back(l.name + (has_right ? l.right ? " (right)" : " (left)" : ""));
    marks.push_back(l.dots ? l.hollow ? Mark::ring : Mark::dot : l.dashed ? Mark::dashed : Mark::line);
  }
  Axis y = make_axis(left_values, chart.log_y, 6, true, near_zero(left_values));
  Axis right = make_axis(right_values, false, 6, true, near_zero(right_values));
  double const width = chart.width, height = chart.height;
  double const left = 24 + y.widest(12) + (chart.y_label.empty() ? 0 : 24);
  double const right_edge = width - (has_right ? 24 + right.widest(12) + (chart.right_label.empty() ? 0 : 24) : 28);
  double const top = 52 + legend(nullptr, names, left, 0, right_edge - left, marks), bottom = height - (chart.x_label.empty() ? 36 : 60);
  Axis x = make_axis(xs, chart.log_x, std::max(2, int((right_edge - left) / 90)), false, false);
  x.from = left, x.to = right_edge;
  y.from = right.from = bottom, y.to = right.to = top;

  Canvas canvas(width, height);
  canvas.title(chart.title, left, right_edge - left);
  legend(&canvas, names, left, 56, right_edge - left, marks);
  draw_y_axis(canvas, y, chart.y_label, left, false, right_edge, 20);
  if (has_right) draw_y_axis(canvas, right, chart.right_label, right_edge, true, 0, width - 12);
  canvas.line(left, bottom, right_edge, bottom, faint);
  double free_from = 0;   // texts of ticks must not touch
  for (std::size_t i = 0; i < x.ticks.size(); ++i) {
    double const at = x.at(x.ticks[i]), half = text_width(x.texts[i], 12) / 2;
    canvas.line(at, bottom, at, bottom + 5, faint);
    if (at - half < free_from) continue;
    canvas.text(at, bottom + 20, x.texts[i], 12, "middle", faint);
    free_from = at + half + 8;
  }
  if (!chart.x_label.empty()) canvas.text((left + right_edge) / 2, height - 14, shortened(chart.x_label, 13, right_edge - left), 13, "middle");
  bool any = false;
  for (std::size_t i = 0; i < chart.lines.size(); ++i) {
    auto const& l = chart.lines[i];
    Axis const& axis = l.right ? right : y;
    std::string const path = path_of(l, x, axis);
    any |= !path.empty();
    std::size_t const count = std::min(l.x.size(), l.y.size());
    if (!l.dots) canvas.path(path, colour(i), l.dashed, double(count) > right_edge - left ? 1.2 : 2);
    for (std::size_t k = 0; k < count; ++k) {
      bool const lonely = !(k > 0 && shows(l.y[k - 1], axis.log)) && !(k + 1 < count && shows(l.y[k + 1], axis.log));
      if ((count <= 40 || lonely || l.dots) && shows(l.x[k], x.log) && shows(l.y[k], axis.log)) {
        if (l.hollow) canvas.ring(x.at(l.x[k]), axis.at(l.y[k]), 3.5, colour(i));
        else canvas.dot(x.at(l.x[k]), axis.at(l.y[k]), l.dots ? 4 : 3, colour(i));
      }
    }
  }
  if (!any) canvas.text((left + right_edge) / 2, (top + bottom) / 2, "no data", 15, "middle", faint);
  return canvas.finish();
}

namespace {

constexpr double narrowest_bar = 15, narrowest_gap = 14, widest_plot = 1500;

struct Panel {
  std::string text;
  double width = 0, height = 0;
};

// values: those that the axis covers, of all panels. down: where the panel begins.
Panel draw_panel(BarChart const& chart, std::vector<double> const& values, double down) {
  std::vector<std::string> names;
  for (auto const& b : chart.bars) names.push_back(b.name);
  Axis y = make_axis(values, chart.log_y, 6, true, true);
  double const bars = std::max<double>(1, double(chart.bars.size())), groups = std::max<double>(1, double(chart.categories.size()));
  double const bar = std::clamp(560 / (bars * groups), narrowest_bar, 56.0), group = bar * bars + std::max(narrowest_gap, bar * 0.6);
  double longest = 0;
  std::vector<std::string> labels;
  for (auto const& c : chart.categories) {
    labels.push_back(shortened(c, 12, 620));
    longest = std::max(longest, text_width(labels.back(), 12));
  }
  bool const turned = longest > group - 8;
  double const cosine = 0.819, sine = 0.574;   // of 35 degrees
  double const overhang = turned ? std::max(0.0, longest * cosine - group / 2) : 0;   // of the first label, to the left
  double const left = std::max(24 + y.widest(12) + (chart.y_label.empty() ? 0 : 24), overhang + 12);
  double const plot = std::max(group * groups, 420.0), pitch = plot / groups, width = left + plot + 28;
  double const legend_height = names.size() > 1 ? legend(nullptr, names, left, 0, plot, {}) : 0;
  double const top = 66 + legend_height + (bar < 45 ? 20 : 0), below = std::any_of(values.begin(), values.end(), [](double v) { return v < 0; }) ? 12 : 0,
               label_height = (turned ? longest * sine + 22 : 28) + below;   // top: upright numbers above bars; below: those of bars that hang down
  double const bottom = std::max(double(chart.height), top + label_height + 200) - label_height, height = bottom + label_height + 8;
  y.from = bottom, y.to = top;

  Canvas canvas(down);
  canvas.title(chart.title, left, plot);
  if (names.size() > 1) legend(&canvas, names, left, 56, plot, {});
  draw_y_axis(canvas, y, chart.y_label, left, false, left + plot, left - y.widest(12) - 24);
  double const base = chart.log_y ? bottom : y.at(0);
  for (std::size_t c = 0; c < chart.categories.size(); ++c) {
    double const middle = left + pitch * (double(c) + 0.5);
    for (std::size_t b = 0; b < chart.bars.size(); ++b) {
      double const v = c < chart.bars[b].values.size() ? chart.bars[b].values[c] : nothing;
      if (!shows(v, chart.log_y)) continue;
      double const x = middle - bar * bars / 2 + bar * double(b), end = y.at(v);
      canvas.box(x + 0.75, std::min(base, end), bar - 1.5, std::max(1.0, std::abs(base - end)), colour(b), 1.5);
      std::string const text = std::abs(v) >= 1e-3 && std::abs(v) < 1e5 ? format("{:.3g}", v) : v == 0 ? "0" : format("{:.1e}", v);
      std::string const number = std::abs(v) >= 1000 && std::abs(v) < 1e5 ? format("{:.0f}", v) : text;
      double const above = end - 5;
      if (text_width(number, 10) < bar) canvas.text(x + bar / 2, v < 0 ? end + 12 : above, number, 10, "middle", faint);
      else if (v >= 0) canvas.text(x + bar / 2 + 3.5, above, number, 10, "start", faint, -90);
    }
    if (turned) canvas.text(middle + 4, bottom + 18 + below, labels[c], 12, "end", ink, -35);
    else canvas.text(middle, bottom + 20 + below, labels[c], 12, "middle");
  }
  canvas.line(left, base, left + plot, base, faint);
  if (values.empty()) canvas.text(left + plot / 2, (top + bottom) / 2, "no data", 15, "middle", faint);
  return {canvas.part(), width, height};
}

}  // namespace

std::string draw(BarChart const& chart) {
  std::vector<double> values;
  for (auto const& b : chart.bars) append(values, b.values);
  double const group = narrowest_bar * double(std::max<std::size_t>(chart.bars.size(), 1)) + narrowest_gap;
  std::size_t const all = chart.categories.size(), most = std::size_t(std::max(1.0, widest_plot / group));
  // More than fit side by side: panels below each other, on the same axis.
  std::size_t const rows = std::max<std::size_t>(1, (all + most - 1) / most), each = std::max<std::size_t>(1, (all + rows - 1) / rows);
  std::string inside;
  double width = 0, height = 0;
  for (std::size_t begin = 0; begin == 0 || begin < all; begin += each) {
    std::size_t const end = std::min(begin + each, all);
    BarChart part = chart;
    if (begin > 0) part.title = format("{} ({} of {})", chart.title, begin / each + 1, (all + each - 1) / each);
    part.categories.assign(chart.categories.begin() + std::ptrdiff_t(begin), chart.categories.begin() + std::ptrdiff_t(end));
    for (auto& b : part.bars) {
      b.values.resize(all, nothing);
      b.values = std::vector(b.values.begin() + std::ptrdiff_t(begin), b.values.begin() + std::ptrdiff_t(end));
    }
    auto const panel = draw_panel(part, values, height);
    inside += panel.text;
    width = std::max(width, panel.width), height += panel.height;
  }
  return Canvas::head(width, height) + inside + "</svg>\n";
}

std::string draw(HeatMap const& map) {
  std::size_t const rows = map.rows.size(), columns = map.columns.size();
  double const most_sizes = double(std::max<std::size_t>({rows, columns, 1}));
  double const cell = std::clamp(600 / most_sizes, map.least_cell, 58.0), size = std::clamp(cell * 0.45, 9.0, 13.0);
  double most = 0, longest_number = 0;
  auto value = [&](std::size_t r, std::size_t c) { return r * columns + c < map.values.size() ? map.values[r * columns + c] : nothing; };
  auto number = [&](double v) { return format("{:.{}f}", v, map.decimals); };
  for (std::size_t i = 0; i < std::min(rows * columns, map.values.size()); ++i)
    if (std::isfinite(map.values[i])) {
      most = std::max(most, map.values[i]);
      longest_number = std::max(longest_number, text_width(number(map.values[i]), 1));
    }
  double const number_size = std::min(size, cell * 0.92 / std::max(longest_number, 0.1));
  bool const numbers = number_size >= 7;
  std::vector<std::string> row_names, column_names;
  double row_width = 0, column_width = 0;
  for (auto const& n : map.rows) row_names.push_back(shortened(n, size, map.name_room)), row_width = std::max(row_width, text_width(row_names.back(), size));
  for (auto const& n : map.columns)
    column_names.push_back(shortened(n, size, map.name_room)), column_width = std::max(column_width, text_width(column_names.back(), size));
  bool const turned = column_width > cell - 4;
  auto const every = std::size_t(std::max(1.0, std::ceil((size + 2) / cell)));   // names that would touch are left out
  double const left = 28 + row_width + (map.y_label.empty() ? 0 : 26), top = 52;
  double const right = left + cell * double(columns), bottom = top + cell * double(rows);
  double const names_height = turned ? column_width + 16 : size + 14;
  double const width = std::max(right + 96, left + 240), height = bottom + names_height + (map.x_label.empty() ? 8 : 30);

  Canvas canvas(width, height);
  double const title_at = text_width(map.title, 17) > width - left - 16 ? 16 : left;
  canvas.title(map.title, title_at, width - title_at - 16);
  for (std::size_t r = 0; r < rows; ++r) {
    double const y = top + cell * double(r);
    if (r % every == 0) canvas.text(left - 8, y + cell / 2 + size * 0.35, row_names[r], size, "end");
    for (std::size_t c = 0; c < columns; ++c) {
      double const v = value(r, c), shade = most > 0 && v > 0 ? std::sqrt(v / most) : 0, x = left + cell * double(c);
      if (!std::isfinite(v)) continue;
      canvas.box(x, y, cell - (cell > 14 ? 1 : 0), cell - (cell > 14 ? 1 : 0), mix(shade));
      if (numbers && v != 0)
        canvas.text(x + cell / 2, y + cell / 2 + number_size * 0.35, number(v), number_size, "middle", shade > 0.55 ? "#ffffff" : ink);
    }
  }
  for (std::size_t c = 0; c < columns; c += every) {
    double const x = left + cell * (double(c) + 0.5);
    if (turned) canvas.text(x + size * 0.35, bottom + 8, column_names[c], size, "end", ink, -90);
    else canvas.text(x, bottom + size + 6, column_names[c], size, "middle");
  }
  if (!map.y_label.empty()) canvas.text(20, (top + bottom) / 2, shortened(map.y_label, 13, std::max(60.0, bottom - top)), 13, "middle", ink, -90);
  if (!map.x_label.empty())
    canvas.text((left + right) / 2, height - 12, shortened(map.x_label, 13, std::max(60.0, width - left)), 13, "middle");
  double const key_height = std::min(200.0, bottom - top), steps = 24;   // the key to the colours
  if (key_height < 40 || most == 0) return canvas.finish();
  for (int i = 0; i < int(steps); ++i)
    canvas.box(right + 22, top + key_height * (1 - (i + 1) / steps), 14, key_height / steps + 0.6, mix((i + 0.5) / steps));
  for (double t : {0.0, 0.5, 1.0})
    canvas.text(right + 42, top + key_height * (1 - t) + (t == 1 ? 10 : t == 0 ? 0 : 4), key_text(t * t * most), 11, "start", faint);
  return canvas.finish();
}

}  // namespace falconet::svg
