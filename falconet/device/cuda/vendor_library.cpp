#include "falconet/device/cuda/vendor_library.h"

#include <dlfcn.h>

namespace falconet {

VendorLibrary::VendorLibrary(std::initializer_list<char const*> files) {
  for (char const* file : files) {
    handle_ = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (handle_) {
      file_ = file;
      return;
    }
    missing_ += (missing_.empty() ? "" : ", ") + std::string(file);
  }
  missing_ += " was not found (LD_LIBRARY_PATH and the system's folders)";
}

void* VendorLibrary::symbol(char const* name) {
  void* const found = handle_ ? dlsym(handle_, name) : nullptr;
  if (!found) refuse(file_ + " has no function " + name);
  return found;
}

}  // namespace falconet
