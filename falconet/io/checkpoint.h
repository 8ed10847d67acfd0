// A checkpoint: named tensors as they lie in memory, texts and whole numbers in one file, with a checksum over everything, so
// that a flipped bit or a cut anywhere is found. checkpoint.cpp lists the bytes.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "falconet/io/safetensors.h"

namespace falconet::io {

struct Checkpoint {
  std::map<std::string, Tensor> tensors;   // of the type, layout included, that was written
  std::map<std::string, std::string> texts;
  std::map<std::string, std::int64_t> integers;

  // What must be there: throws Error{data} naming what is missing.
  Tensor const& tensor(std::string const& name) const;
  std::string const& text(std::string const& name) const;
  std::int64_t integer(std::string const& name) const;
};

struct CheckpointParts {
  std::vector<NamedView> tensors;          // host memory
  std::map<std::string, std::string> texts;
  std::map<std::string, std::int64_t> integers;
};

void write_checkpoint(std::string const& path, CheckpointParts const& parts);   // atomically
Checkpoint read_checkpoint(std::string const& path);                            // Error{data} if cut off, damaged or something else

}  // namespace falconet::io
