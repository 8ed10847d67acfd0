// The one error type. The library throws it and never prints or aborts; the command line turns it into one `error:` line.
#pragma once
#include <exception>
#include <source_location>
#include <string>
#include <string_view>

namespace falconet {

enum class ErrorKind {
  usage,        // a setting, argument or name that cannot be used; the command line exits 2
  shape,        // shapes that do not fit, found while the network is built
  model,        // weights or a model description that do not fit
  data,         // a data set or image that cannot be read or is inconsistent
  file,         // a file that cannot be read, written or locked
  device,       // a device, driver or out-of-memory condition
  numeric,      // NaN or infinity in the loss
  interrupted,  // stopped by the user; the command line exits 130
  internal      // a broken invariant of falconet itself
};

class Error : public std::exception {
 public:
  Error(ErrorKind kind, std::string layer, std::string message, std::source_location where);
  // "LAYER: MESSAGE", and for shape errors a second line with the user's file and line.
  char const* what() const noexcept override { return text_.c_str(); }

  ErrorKind const kind;
  std::string const layer;    // path of the layer concerned, or empty
  std::string const message;  // one line: what is wrong and what was expected
  std::source_location const where;

 private:
  std::string text_;
};

// Throws Error{kind, "", message, where}.
[[noreturn]] void fail(ErrorKind kind, std::string message, std::source_location where = std::source_location::current());
// Throws Error{kind, layer, message, where}; `where` is the line of the user's code that made the layer.
[[noreturn]] void fail_in_layer(ErrorKind kind, std::string layer, std::string message, std::source_location where);

}  // namespace falconet
