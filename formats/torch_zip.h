// Tensors of a .pt, .pth or .bin file of torch.save, without Python and without executing anything:
// torch_pickle.h says what is read of the pickle inside, zip_directory.h what of the zip around it.
//
// Tensors get a name from the keys that lead to them, joined by dots: {"model": {"a.weight": t}}
// is model.a.weight, lists count from 0, and a file that is one tensor calls it "tensor". Texts and
// numbers beside the tensors are counted and not read. Files of the format before torch 1.6 and
// TorchScript programs are refused by name.
//
// LOCAL. THREADS: may be read by several threads at once.
//   const auto file = TorchZip::open("pytorch_model.bin");
//   for (const StoredTensor& tensor : file.tensors()) {
//     std::vector<std::byte> bytes(tensor.span_bytes);
//     file.bytes().read_exact(tensor.begin_bytes, bytes);
//   }
#pragma once
#include "base/files.h"
#include "formats/stored_tensor.h"

#include <cstddef>
#include <filesystem>
#include <utility>
#include <vector>

namespace trestle::formats {

class TorchZip {
 public:
  /// Errors: ExitCode::data, naming the file, what is wrong with it and what to do.
  static TorchZip open(const std::filesystem::path& path);

  const FileReader& bytes() const { return file_; }
  const std::filesystem::path& path() const { return file_.path(); }
  /// In the order in which the file names them. Two may share bytes.
  const std::vector<StoredTensor>& tensors() const { return tensors_; }
  std::size_t other_values() const { return other_values_; }  ///< texts, numbers, None

 private:
  explicit TorchZip(FileReader file) : file_(std::move(file)) {}

  FileReader file_;
  std::vector<StoredTensor> tensors_;
  std::size_t other_values_ = 0;
};

}  // namespace trestle::formats
