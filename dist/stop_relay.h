// Makes one rank's request to stop everybody's within a fraction of a second, also where ranks do
// not meet for hours (each draws its pictures, one waits for data).
//
//   StopSource source;                               // signal handlers write here
//   dist::StopRelay relay(world, source);
//   work(world, source.token());                     // a signal to any rank sets everyone's token
//   relay.close();
//
// A request travels along a binary tree, one message an edge and direction: log2(ranks) hops of at
// most 0.1 s. When exactly a rank sees it differs; what must be the same on all ranks still has to
// be agreed (the step's small sum does that).
// COLLECTIVE: constructor and close(). THREADS: one of its own, which blocks every signal, on a
// communicator of its own. Destroyed without close() (after an error that only this rank knows) it
// does not wait for the others.
#pragma once
#include "base/stop.h"
#include "dist/communicator.h"

#include <condition_variable>
#include <mutex>
#include <thread>

namespace trestle::dist {

class StopRelay {
 public:
  /// `source` must outlive the relay.
  StopRelay(const Communicator& world, StopSource& source);
  ~StopRelay();
  StopRelay(const StopRelay&) = delete;
  StopRelay& operator=(const StopRelay&) = delete;

  /// Waits until every neighbour in the tree closes as well.
  void close();

 private:
  enum class Ending { none, together, alone };
  void work();
  void end(Ending how);

  Communicator world_;
  StopSource& source_;
  std::mutex mutex_;
  std::condition_variable changed_;
  Ending ending_ = Ending::none;
  std::thread thread_;
};

}  // namespace trestle::dist
