// fmt, header-only, behind one name (GCC 12 has no <format>). Include it in .cpp files only.
#pragma once
#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY
#endif
#include <fmt/format.h>

namespace falconet {

// An object, not a function: where a standard library has <format>, a call with a std::string would find std::format too.
struct Format {
  template <class... Values>
  std::string operator()(fmt::format_string<Values...> text, Values&&... values) const {
    return fmt::format(text, std::forward<Values>(values)...);
  }
};
inline constexpr Format format;

}  // namespace falconet
