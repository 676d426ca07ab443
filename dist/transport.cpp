#include "dist/transport.h"

#include "base/error.h"
#include "dist/progress.h"

namespace trestle::dist {
namespace {

class LoneTransport : public Transport {
 public:
  explicit LoneTransport(int largest_tag) : largest_tag_(largest_tag) {}

  void submit(std::shared_ptr<Operation> operation) override {
    while (operation->step() != Operation::Step::finished) {
    }
  }
  std::unique_ptr<Exchange> post(int, std::span<const Outgoing>,
                                 std::span<const Incoming>) override {
    TRESTLE_ASSERT(false, "a lone rank has no one to talk to");
    return nullptr;
  }
  int largest_tag() const override { return largest_tag_; }

 private:
  int largest_tag_;
};

}  // namespace

void Observed::set(OperationObserver* observer) {
  const std::lock_guard lock(mutex_);
  observer_ = observer;
}

Observed::Receipt Observed::queued(const OperationInfo& operation) {
  const std::lock_guard lock(mutex_);
  if (!observer_) return {};
  return {observer_, observer_->queued(operation)};
}

// An operation may outlive its observer, and then nobody wants to know.
void Observed::started(const Receipt& receipt) {
  const std::lock_guard lock(mutex_);
  if (receipt.observer && receipt.observer == observer_) observer_->started(receipt.id);
}

void Observed::finished(const Receipt& receipt) {
  const std::lock_guard lock(mutex_);
  if (receipt.observer && receipt.observer == observer_) observer_->finished(receipt.id);
}

void throw_size_mismatch(int rank, int from, size_t expected, const std::string& arrived) {
  fail(
      ExitCode::peer,
      "rank {} expected {} bytes from rank {}, and {} came (the ranks issued different operations, "
      "or the same with different sizes). Every rank must make the same calls in the same order.",
      rank, expected, from, arrived);
}

std::shared_ptr<Transport> make_lone_transport(int largest_tag) {
  return std::make_shared<LoneTransport>(largest_tag);
}

}  // namespace trestle::dist
