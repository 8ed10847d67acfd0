// A folder of images by class: ROOT/train/CLASS/x.jpg and ROOT/val/CLASS/y.png (or ROOT/test/...). Images are read, resized and
// made gray or RGB when a batch needs them; classes are numbered in the order of their names.
#pragma once
#include "falconet/data/image.h"
#include "falconet/data/pipeline.h"

namespace falconet::data {

struct ImageFolderOptions {
  int height = 224, width = 224;
  int channels = 3;                // 1: gray
  bool crop = true;                // cut the longer side to the wanted shape; false distorts it
  // Of the training images; where they are not given, both are computed from up to `measured` images spread over the set.
  std::vector<float> mean = {}, std = {};
  int measured = 256;
};

// The class folders' names in such a FOLDER, sorted: their numbers in this order are the labels. Error{data} if there is none.
std::vector<std::string> class_names(std::string const& folder);

Split image_folder(std::string const& root, ImageFolderOptions options = {});

// One part of such a set, FOLDER/CLASS/x.jpg, for a spec that is already known: its labels name the class folders.
Pipeline image_folder_part(std::string const& folder, DataSpec const& spec, bool crop = true);

}  // namespace falconet::data
