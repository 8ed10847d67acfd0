// fmt, header-only, behind one name (GCC 12 has no <format>). Include it in .cpp files only.
#pragma once
#ifndef FMT_HEADER_ONLY
#define FMT_HEADER_ONLY
#endif
#include <fmt/format.h>

namespace falconet {
using fmt::format;
}
