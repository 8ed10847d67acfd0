// Whether a sanitizer watches: it makes plain loops many times slower and looks for faults, not for drift, so the longest tests do less.
#pragma once

namespace falconet {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif

}  // namespace falconet
