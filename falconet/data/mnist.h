// MNIST (LeCun, Cortes, Burges) and Fashion-MNIST (Zalando): four IDX files in one folder, plain or .gz, under their usual names
// (train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte).
#pragma once
#include "falconet/data/pipeline.h"

namespace falconet::data {

Split mnist(std::string const& folder);
Split fashion_mnist(std::string const& folder);

// One IDX file of unsigned bytes: images (magic number 2051) as u8 [N,1,H,W], labels (2049) as i32 [N].
Tensor read_idx_images(std::string const& path);
Tensor read_idx_labels(std::string const& path);

}  // namespace falconet::data
