// A vendor's library (cuDNN, cuBLASLt, cuFFT ...): found by dlopen when it is first asked for, never linked, never required.
#pragma once
#include <initializer_list>
#include <string>

namespace falconet {

class VendorLibrary {
 public:
  // Tries the files in order. The library stays loaded: unloading one runs its destructors after those of the driver.
  explicit VendorLibrary(std::initializer_list<char const*> files);
  // The function of that name; null, and missing() says so, if the library lacks it.
  template <class Function>
  void find(Function*& function, char const* name) { function = reinterpret_cast<Function*>(symbol(name)); }
  // Why it cannot be used, one line; empty when it can.
  std::string const& missing() const { return missing_; }
  void refuse(std::string why) { if (missing_.empty()) missing_ = std::move(why); }

 private:
  void* symbol(char const* name);
  void* handle_ = nullptr;
  std::string file_, missing_;
};

}  // namespace falconet
