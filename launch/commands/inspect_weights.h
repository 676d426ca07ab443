// What `trestle inspect` says about weights: safetensors files, folders of them, files of
// torch.save. LOCAL. ERRORS: Error(data), Error(usage) for a tensor that is not there.
#pragma once
#include <filesystem>
#include <string>

namespace trestle::launch {

/// A file, or a folder that holds weights and no checkpoint.
bool is_weights(const std::filesystem::path& path);

/// Everything that `path` names, or the numbers of one tensor, if `tensor` is not empty.
void inspect_weights(const std::filesystem::path& path, const std::string& variant,
                     const std::string& tensor, bool json);

}  // namespace trestle::launch
