// TRESTLE_NCCL(call) and TRESTLE_CUDA(call): throw Error with the library's own words, and the few
// objects of CUDA that the NCCL backend holds. For the files of dist/cuda/ only.
//
// LOCAL. THREADS: any. Codes: peer where NCCL blames another rank, environment otherwise.
#pragma once
#include "base/error.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

#include <string>

namespace trestle::dist {

[[noreturn]] void cuda_failed(cudaError_t code, const char* expression, const char* file, int line);
[[noreturn]] void nccl_failed(ncclResult_t code, const char* expression, const char* file,
                              int line);

/// "unhandled cuda error; Cuda failure 2 'out of memory'": the code's words and the last ones.
std::string nccl_text(ncclResult_t code);
/// "; " and what NCCL last said about a failure in this process; empty if there was none.
std::string nccl_last_words();
ExitCode nccl_exit_code(ncclResult_t code);

/// An event that orders streams and can be asked for, without times. Made on the current device.
class CudaEvent {
 public:
  CudaEvent();
  ~CudaEvent();
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;

  void record(cudaStream_t stream);
  /// What the stream is given from now on waits until what was recorded is done.
  void block(cudaStream_t stream) const;
  bool is_complete() const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// A stream of the highest priority that does not wait for the default stream. Made on the current
/// device.
class CudaStream {
 public:
  CudaStream();
  ~CudaStream();
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;

  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace trestle::dist

#define TRESTLE_CUDA(expression)                                                        \
  do {                                                                                  \
    const cudaError_t trestle_cuda_code = (expression);                                 \
    if (trestle_cuda_code != cudaSuccess) [[unlikely]]                                  \
      ::trestle::dist::cuda_failed(trestle_cuda_code, #expression, __FILE__, __LINE__); \
  } while (false)

#define TRESTLE_NCCL(expression)                                                        \
  do {                                                                                  \
    const ncclResult_t trestle_nccl_code = (expression);                                \
    if (trestle_nccl_code != ncclSuccess) [[unlikely]]                                  \
      ::trestle::dist::nccl_failed(trestle_nccl_code, #expression, __FILE__, __LINE__); \
  } while (false)
