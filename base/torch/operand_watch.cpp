#include "base/torch/operand_watch.h"

#include "base/error.h"

#include <ATen/core/ivalue.h>

#include <memory>
#include <utility>

namespace trestle {
namespace {

thread_local const OperandWatch::Seen* watching = nullptr;

void tell(const c10::IValue& value) {
  if (value.isTensor()) {
    if (value.toTensor().defined()) (*watching)(value.toTensor());
  } else if (value.isList()) {
    for (const c10::IValue& element : value.toListRef()) {
      if (!element.isTensor() && !element.isNone()) return;  // the others are of its type
      tell(element);
    }
  }
}

std::unique_ptr<at::ObserverContext> before_operation(const at::RecordFunction& operation) {
  if (watching != nullptr) {
    for (const c10::IValue& input : operation.inputs()) tell(input);
  }
  return nullptr;
}

}  // namespace

OperandWatch::OperandWatch(Seen seen) : seen_(std::move(seen)) {
  TRESTLE_ASSERT(watching == nullptr, "this thread watches operands already");
  watching = &seen_;
  handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(before_operation)
                                           .needsInputs(true)
                                           .scopes({at::RecordScope::FUNCTION}));
}

OperandWatch::~OperandWatch() {
  at::removeCallback(handle_);
  watching = nullptr;
}

void about_to_read(std::initializer_list<at::Tensor> tensors) {
  if (watching == nullptr) return;
  for (const at::Tensor& tensor : tensors) {
    if (tensor.defined()) (*watching)(tensor);
  }
}

}  // namespace trestle
