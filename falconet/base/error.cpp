#include "falconet/base/error.h"

namespace falconet {
namespace {
std::string_view file_name(std::string_view path) {
  auto slash = path.rfind('/');
  return slash == std::string_view::npos ? path : path.substr(slash + 1);
}
}  // namespace

Error::Error(ErrorKind kind, std::string layer, std::string message, std::source_location where)
    : kind(kind), layer(std::move(layer)), message(std::move(message)), where(where) {
  text_ = this->layer.empty() ? this->message : this->layer + ": " + this->message;
  if (kind == ErrorKind::shape) text_ += "\n  " + std::string(file_name(where.file_name())) + ":" + std::to_string(where.line());
}

void fail(ErrorKind kind, std::string message, std::source_location where) { throw Error(kind, "", std::move(message), where); }
void fail_in_layer(ErrorKind kind, std::string layer, std::string message, std::source_location where) {
  throw Error(kind, std::move(layer), std::move(message), where);
}

}  // namespace falconet
