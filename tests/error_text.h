// The text of the error that a function throws, for tests of what users are told.
#pragma once
#include <gtest/gtest.h>

#include <string>

#include "falconet/base/error.h"

namespace falconet {

// Calls f, which should throw an Error of this kind with one line of text; "no error" if it does not throw.
template <class F>
std::string text_of_error(F&& f, ErrorKind kind) {
  try {
    f();
  } catch (Error const& e) {
    EXPECT_EQ(int(e.kind), int(kind)) << e.what();
    EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << "more than one line: " << e.what();
    return e.what();
  }
  return "no error";
}

}  // namespace falconet
