// Pairs of pictures with a prompt, from a folder:
//
//   pairs.jsonl          a line a pair: {"source": FILE, "target": FILE, "prompt": TEXT}
//   heldout.jsonl        the same, for pairs that training never sees
//   prompts.safetensors  one [L, C] float32 tensor a prompt, named by the prompt's text
//
// FILE is a PNG or JPEG picture, by a path inside the folder. Bad is a pair with a picture that is
// missing or cannot be read, or whose pictures are not both of resolution x resolution pixels.
//
// A batch has source and target [B, 3, H, W] in [-1, 1], text [B, L, C] padded with zeros to the
// batch's longest prompt, and text_mask [B, L] (1 keep, 0 padding), all float32 but the mask
// (int64). LOCAL. THREADS: see data/dataset.h.
#pragma once
#include "configs/describe.h"
#include "data/dataset.h"
#include "formats/picture.h"

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace trestle::data {

struct PairedPicturesOptions {
  std::string path;
  std::int64_t resolution = 64;

  void describe(configs::Fields& fields);
};

class PairedPictures : public Dataset {
 public:
  /// Reads the list and all prompt embeddings; pictures are read when asked for. `list` is the file
  /// name within the folder. `text_channels` is the width the model wants.
  PairedPictures(const PairedPicturesOptions& options, const std::string& list,
                 std::int64_t text_channels);

  std::int64_t size() const override { return static_cast<std::int64_t>(pairs_.size()); }
  Batch load(std::span<const SampleId> ids) const override;

 private:
  struct Pair {
    std::filesystem::path source, target;
    std::size_t prompt;  // index into text_lc_
    std::int64_t line;
  };

  /// Throws BadSample.
  std::pair<formats::Picture, formats::Picture> read_pair(SampleId id) const;

  std::filesystem::path list_;
  std::int64_t resolution_;
  std::vector<Pair> pairs_;
  std::vector<at::Tensor> text_lc_;
};

}  // namespace trestle::data
