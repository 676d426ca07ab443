// Hears of each tensor that an operation of this thread is about to read or write: operands of
// ATen's operations, and what kernels of our own announce, since they read memory past ATen.
//
//   OperandWatch watch([&](const at::Tensor& operand) { ... });     // until it goes
//   about_to_read({x, weight});                                     // in a kernel of our own
//
// LOCAL. THREADS: the watching one; what torch computes on threads of its own belongs to an
// operation that was heard of. One watch a thread at a time. What is called must not throw (torch
// would only log it) and must not start operations.
#pragma once
#include <ATen/core/TensorBody.h>
#include <ATen/record_function.h>

#include <functional>
#include <initializer_list>

namespace trestle {

class OperandWatch {
 public:
  using Seen = std::function<void(const at::Tensor&)>;

  explicit OperandWatch(Seen seen);
  ~OperandWatch();
  OperandWatch(const OperandWatch&) = delete;
  OperandWatch& operator=(const OperandWatch&) = delete;

 private:
  Seen seen_;
  at::CallbackHandle handle_;
};

/// For code that reads tensors' memory itself. Undefined ones are passed over; costs nothing where
/// nobody watches.
void about_to_read(std::initializer_list<at::Tensor> tensors);

}  // namespace trestle
