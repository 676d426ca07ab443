// Parameters filled from files of weights, under the contract of contract.h, as fast as memory
// takes them.
//
// Bytes go by pread straight into the parameter's memory where that is contiguous, on the CPU and
// of the file's dtype (a view into a flat buffer is); else through a buffer of a few MB a thread
// that casts. The files are read by several threads, each byte once. Only tensors that do not lie
// row-major in the file or in memory are held whole beside their place, one at a time.
//
// Nothing is changed before the contract holds, so parameters whose memory nobody has filled yet
// may be passed: after an error they must not be used, and after none of them is left out.
//
// LOCAL. THREADS: one loading a parameter; starts its own. ERRORS: Error(data).
//   const LoadReport report = load_parameters("sana/transformer", parameters);
//   log_info("weights: {}", report.text());
#pragma once
#include "models/nn/parameters.h"
#include "models/weights/contract.h"
#include "models/weights/source.h"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

namespace trestle::models::weights {

struct LoadOptions {
  Rename rename = {};  ///< see contract.h
  int threads = 0;     ///< 0: as many as there are cores, at most 8
};

struct LoadReport {
  std::size_t tensors = 0, left_out = 0;
  std::uint64_t bytes = 0;         ///< read
  std::uint64_t direct_bytes = 0;  ///< of these, straight into their place
  int threads = 0;
  double seconds = 0;

  std::string text() const;  ///< "1396 tensors, 9.44 GB in 2.9 s (3.26 GB/s, 2 threads)"
};

/// Warns once where the file's numbers are float16 and the model's are not.
LoadReport load_parameters(const Source& source, std::span<const nn::NamedParameter> parameters,
                           const LoadOptions& options = {});
LoadReport load_parameters(const std::filesystem::path& path, const nn::Parameters& parameters,
                           const LoadOptions& options = {});

}  // namespace trestle::models::weights
