#include "dist/cuda/cuda_check.h"

namespace trestle::dist {

void cuda_failed(cudaError_t code, const char* expression, const char* file, int line) {
  fail(ExitCode::environment,
       "{} failed at {}:{} ({}). Look at the GPU with nvidia-smi, and for the first error that any "
       "rank reported.",
       expression, file, line, cudaGetErrorString(code));
}

void nccl_failed(ncclResult_t code, const char* expression, const char* file, int line) {
  fail(nccl_exit_code(code),
       "{} failed at {}:{} ({}). Look for the first error that any rank reported; NCCL_DEBUG=WARN "
       "makes NCCL say more.",
       expression, file, line, nccl_text(code));
}

std::string nccl_text(ncclResult_t code) { return ncclGetErrorString(code) + nccl_last_words(); }

std::string nccl_last_words() {
  std::string words = ncclGetLastError(nullptr);  // NCCL keeps one a process
  while (!words.empty() && words.back() == '\n') words.pop_back();
  return words.empty() ? words : "; " + words;
}

ExitCode nccl_exit_code(ncclResult_t code) {
  return code == ncclRemoteError ? ExitCode::peer : ExitCode::environment;
}

CudaEvent::CudaEvent() { TRESTLE_CUDA(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }

CudaEvent::~CudaEvent() { cudaEventDestroy(event_); }

void CudaEvent::record(cudaStream_t stream) { TRESTLE_CUDA(cudaEventRecord(event_, stream)); }

void CudaEvent::block(cudaStream_t stream) const {
  TRESTLE_CUDA(cudaStreamWaitEvent(stream, event_, 0));
}

bool CudaEvent::is_complete() const {
  const cudaError_t state = cudaEventQuery(event_);
  if (state == cudaErrorNotReady) {
    cudaGetLastError();  // not an error, but CUDA would tell the next who asks for one
    return false;
  }
  TRESTLE_CUDA(state);
  return true;
}

CudaStream::CudaStream() {
  int lowest = 0, highest = 0;
  TRESTLE_CUDA(cudaDeviceGetStreamPriorityRange(&lowest, &highest));
  TRESTLE_CUDA(cudaStreamCreateWithPriority(&stream_, cudaStreamNonBlocking, highest));
}

CudaStream::~CudaStream() { cudaStreamDestroy(stream_); }

}  // namespace trestle::dist
