#include "dist/mpi_transport.h"

#include "base/error.h"
#include "dist/communicator.h"
#include "dist/mpi_check.h"

#include <numeric>

namespace trestle::dist {
namespace {

class MpiExchange : public Exchange {
 public:
  // Delegates, so that the destructor takes back what was started when a later message throws.
  MpiExchange(int rank, MPI_Comm comm, int tag, std::span<const Outgoing> outgoing,
              std::span<const Incoming> incoming)
      : MpiExchange(rank) {
    // Receives first: a message that finds its buffer waiting is not copied through a spare one.
    for (const Incoming& message : incoming) {
      MPI_Request& request = add({message.from, message.bytes.size()});
      ++receives_;
      TRESTLE_MPI(MPI_Irecv(message.bytes.data(), static_cast<int>(message.bytes.size()), MPI_BYTE,
                            message.from, tag, comm, &request));
    }
    for (const Outgoing& message : outgoing) {
      MPI_Request& request = add({message.to, message.bytes.size()});
      TRESTLE_MPI(MPI_Isend(message.bytes.data(), static_cast<int>(message.bytes.size()), MPI_BYTE,
                            message.to, tag, comm, &request));
    }
    statuses_.resize(requests_.size());
  }

  ~MpiExchange() override {
    // Only after an error: take back what no peer has answered yet; let the library finish the
    // rest.
    for (size_t i = 0; i < requests_.size(); ++i) {
      if (requests_[i] == MPI_REQUEST_NULL) continue;
      if (i < receives_) MPI_Cancel(&requests_[i]);
      MPI_Request_free(&requests_[i]);
    }
  }

  bool test() override {
    int all_done = 0;
    const int code = MPI_Testall(static_cast<int>(requests_.size()), requests_.data(), &all_done,
                                 statuses_.data());
    if (code == MPI_ERR_IN_STATUS) throw_failed_message();
    TRESTLE_MPI(code);
    if (!all_done) return false;
    for (size_t i = 0; i < receives_; ++i) {
      int bytes = 0;
      TRESTLE_MPI(MPI_Get_count(&statuses_[i], MPI_BYTE, &bytes));
      if (static_cast<size_t>(bytes) != pieces_[i].bytes)
        throw_other_size(i, fmt::format("{}", bytes));
    }
    return true;
  }

 private:
  explicit MpiExchange(int rank) : rank_(rank) {}

  struct Piece {
    int peer;
    size_t bytes;
  };

  MPI_Request& add(Piece piece) {
    pieces_.push_back(piece);
    return requests_.emplace_back(MPI_REQUEST_NULL);
  }

  [[noreturn]] void throw_failed_message() {
    for (size_t i = 0; i < statuses_.size(); ++i) {
      const int code = statuses_[i].MPI_ERROR;
      if (code == MPI_SUCCESS || code == MPI_ERR_PENDING) continue;
      if (i < receives_ && code == MPI_ERR_TRUNCATE) throw_other_size(i, "more");
      char buffer[MPI_MAX_ERROR_STRING] = "";
      fail(ExitCode::environment,
           "rank {} could not exchange {} bytes with rank {} ({}). Look for the first error that "
           "any rank reported.",
           rank_, pieces_[i].bytes, pieces_[i].peer, mpi_error_text(code, buffer));
    }
    fail(ExitCode::environment, "MPI_Testall failed and names no message");
  }

  [[noreturn]] void throw_other_size(size_t i, const std::string& arrived) {
    throw_size_mismatch(rank_, pieces_[i].peer, pieces_[i].bytes, arrived);
  }

  int rank_;
  size_t receives_ = 0;  // requests_[0, receives_) are receives, the others sends
  std::vector<MPI_Request> requests_;
  std::vector<Piece> pieces_;
  std::vector<MPI_Status> statuses_;
};

/// A function that runs on the progress thread.
class Errand : public Operation {
 public:
  explicit Errand(std::function<void()> f) : f_(std::move(f)) {}

 private:
  Step advance() override {
    f_();
    return Step::finished;
  }
  std::function<void()> f_;
};

class MpiTransport : public Transport {
 public:
  MpiTransport() : progress_(Progress::Rest::polls) {
    run([this] {
      TRESTLE_MPI(MPI_Comm_dup(MPI_COMM_WORLD, &comm_));
      TRESTLE_MPI(MPI_Comm_rank(comm_, &rank_));
      TRESTLE_MPI(MPI_Comm_size(comm_, &size_));
      int* largest = nullptr;
      int is_known = 0;
      TRESTLE_MPI(MPI_Comm_get_attr(comm_, MPI_TAG_UB, static_cast<void*>(&largest), &is_known));
      if (is_known) largest_tag_ = *largest;
    });
  }

  void run(std::function<void()> f) {
    auto errand = std::make_shared<Errand>(std::move(f));
    progress_.submit(errand);
    errand->wait();
  }

  void submit(std::shared_ptr<Operation> operation) override {
    progress_.submit(std::move(operation));
  }
  std::unique_ptr<Exchange> post(int tag, std::span<const Outgoing> outgoing,
                                 std::span<const Incoming> incoming) override {
    return std::make_unique<MpiExchange>(rank_, comm_, tag, outgoing, incoming);
  }
  int largest_tag() const override { return largest_tag_; }

  int rank() const { return rank_; }
  int size() const { return size_; }
  void stop() { progress_.stop(); }

 private:
  MPI_Comm comm_ = MPI_COMM_NULL;  // MPI_Finalize frees it: peers may be gone by then
  int rank_ = 0;
  int size_ = 1;
  int largest_tag_ = 32767;  // what the standard promises
  Progress progress_;
};

/// The one of this process while MPI runs, and the channel that worlds are split from.
struct Running {
  std::shared_ptr<MpiTransport> transport;
  std::shared_ptr<Channel> root;
};
// Never destroyed: where MPI_Abort or exit() ends the process, the thread is still at work.
Running& running = *new Running;

}  // namespace

void start_mpi_transport() {
  auto transport = std::make_shared<MpiTransport>();
  std::vector<int> everyone(transport->size());
  std::iota(everyone.begin(), everyone.end(), 0);
  const int rank = transport->rank();
  auto root = std::make_shared<Channel>(transport, 0, std::move(everyone), rank, "root");
  running = {std::move(transport), std::move(root)};
}

void stop_mpi_transport() {
  if (running.transport) running.transport->stop();
  running = {};
}

void run_on_mpi_thread(std::function<void()> f) { running.transport->run(std::move(f)); }

std::shared_ptr<Channel> make_mpi_world_channel() {
  TRESTLE_ASSERT(running.root, "Communicator::world() needs a live MpiRuntime");
  return running.root->split(0, running.root->rank(), "world");
}

// Here, so that programs without MPI need not link it.
Communicator Communicator::world() { return Communicator(make_mpi_world_channel()); }

}  // namespace trestle::dist
