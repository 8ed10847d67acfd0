// CIFAR-10 (Krizhevsky 2009), binary version: data_batch_1.bin to data_batch_5.bin and test_batch.bin, or each as .bin.xz, in one
// folder; the labels' names come from batches.meta.txt where it is there. A record is 1 byte of label and 3x32x32 of pixels.
#pragma once
#include "falconet/data/pipeline.h"

namespace falconet::data {

Split cifar10(std::string const& folder);

struct CifarBatch {
  std::vector<std::uint8_t> pixels;   // 32x32x3 per image, channels innermost
  std::vector<std::uint8_t> labels;   // 0..9
};
CifarBatch read_cifar_batch(std::string const& path);   // .xz is recognised by its first bytes

}  // namespace falconet::data
