// Extent lists and private views.
#include "memory/image.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "memory/early_pages.h"
#include "memory/gpa.h"
#include "memory/page_runs.h"
#include "memory/page_scan.h"
#include "memory/private_view.h"
#include "memory/single_page_faults.h"
#include "tests/test.h"

namespace vmfork {
namespace {

std::shared_ptr<const UniqueFd> MemoryFile(uint64_t pages, char fill) {
  UniqueFd fd(::memfd_create("test", MFD_CLOEXEC));
  std::string content(pages * kPageSize, fill);
  EXPECT_EQ(::pwrite(fd.Get(), content.data(), content.size(), 0),
            static_cast<ssize_t>(content.size()));
  return std::make_shared<const UniqueFd>(std::move(fd));
}

char At(const PrivateView& view, uint64_t page) {
  return static_cast<char>(view.Data()[page * kPageSize]);
}
void Put(const PrivateView& view, uint64_t page, char value) {
  view.Data()[page * kPageSize] = static_cast<std::byte>(value);
}

// Runs of whole pages.
std::vector<PageRun> Pages(std::initializer_list<std::pair<uint64_t, uint64_t>> runs) {
  std::vector<PageRun> list;
  for (const auto& [page, count] : runs) list.push_back({page * kPageSize, count * kPageSize});
  return list;
}
bool Same(std::span<const PageRun> a, std::span<const PageRun> b) {
  return std::ranges::equal(a, b, [](const PageRun& x, const PageRun& y) {
    return x.start == y.start && x.size == y.size;
  });
}

TEST(RunsInCommon) {
  const auto both = Intersect(Pages({{0, 4}, {6, 1}, {8, 4}}), Pages({{1, 2}, {3, 6}, {20, 1}}));
  EXPECT_TRUE(Same(both, Pages({{1, 3}, {6, 1}, {8, 1}})));
  EXPECT_TRUE(Intersect(Pages({{0, 4}}), Pages({{4, 4}})).empty());
  EXPECT_TRUE(Intersect(Pages({}), Pages({{4, 4}})).empty());
}

TEST(EarlyPagesAreWhatStartsHaveInCommon) {
  EarlyPages early;
  EXPECT_TRUE(early.OfHost().copied.empty() && early.OfStart().copied.empty());
  EXPECT_FALSE(early.HasHostUse());
  early.SetHostUse(Pages({{7, 9}}), Pages({{7, 1}}));
  EXPECT_TRUE(early.HasHostUse());
  EXPECT_TRUE(Same(early.OfStart().copied, Pages({{7, 1}})));
  EXPECT_TRUE(early.IsWanting());
  early.AddStart(Pages({{2, 3}, {7, 9}, {30, 4}}), Pages({{2, 3}, {7, 1}, {30, 2}}));
  EXPECT_TRUE(Same(early.OfStart().copied, Pages({{7, 1}})));  // one clone proves nothing
  EXPECT_TRUE(early.IsWanting());
  early.AddStart(Pages({{3, 5}, {31, 20}}), Pages({{3, 5}, {40, 1}}));
  EXPECT_TRUE(Same(early.OfStart().copied, Pages({{3, 2}, {7, 1}})));
  EXPECT_FALSE(early.IsWanting());
  early.AddStart(Pages({{50, 1}}), Pages({{50, 1}}));
  EXPECT_TRUE(Same(early.OfStart().copied, Pages({{3, 2}, {7, 1}})));
  EXPECT_TRUE(Same(early.OfHost().copied, Pages({{7, 1}})));
  // What is copied need not be mapped before.
  EXPECT_TRUE(Same(early.OfHost().mapped, Pages({{8, 8}})));
  EXPECT_TRUE(Same(early.OfStart().mapped, Pages({{8, 8}, {31, 3}})));
}

TEST(EarlyPagesAreBounded) {
  EarlyPages early;
  const auto first = Pages({{0, 1000}, {2000, 1000}}), second = Pages({{900, 100}, {2000, 1000}});
  early.AddStart(first, first);
  early.AddStart(second, second);
  EXPECT_TRUE(Same(early.OfStart().copied, Pages({{900, 100}, {2000, 28}})));
}

TEST(ImageRefusesExtentsOutOfOrder) {
  auto file = MemoryFile(4, 'a');
  EXPECT_FALSE(
      Image::Make(4 * kPageSize, {{kPageSize, kPageSize, file, 0}, {0, kPageSize, file, 0}})
          .has_value());
}

TEST(ImageRefusesOverlapMisalignmentAndExcess) {
  auto file = MemoryFile(4, 'a');
  EXPECT_FALSE(
      Image::Make(4 * kPageSize, {{0, 2 * kPageSize, file, 0}, {kPageSize, kPageSize, file, 0}})
          .has_value());
  EXPECT_FALSE(Image::Make(4 * kPageSize, {{1, kPageSize, file, 0}}).has_value());
  EXPECT_FALSE(Image::Make(4 * kPageSize, {{3 * kPageSize, 2 * kPageSize, file, 0}}).has_value());
  EXPECT_FALSE(Image::Make(4 * kPageSize, {{kPageSize, UINT64_MAX - 4095, file, 0}}).has_value());
}

TEST(OverlaySplitsTheParent) {
  auto below = MemoryFile(8, 'b'), above = MemoryFile(2, 'a');
  auto parent = Image::Make(8 * kPageSize, {{0, 8 * kPageSize, below, 0}});
  auto image = Image::Overlay(**parent, {{2 * kPageSize, kPageSize, above, 0},
                                         {5 * kPageSize, kPageSize, above, kPageSize}});
  EXPECT_TRUE(image.has_value());
  EXPECT_EQ((*image)->Extents().size(), 5u);
  auto view = PrivateView::Map(*image);
  std::string seen;
  for (uint64_t page = 0; page < 8; ++page) seen.push_back(At(*view, page));
  EXPECT_TRUE(seen == "bbabbabb");
}

TEST(OverlayJoinsNeighboursOfOneLayer) {
  auto below = MemoryFile(4, 'b'), above = MemoryFile(2, 'a');
  auto parent = Image::Make(4 * kPageSize, {{0, 4 * kPageSize, below, 0}});
  auto image = Image::Overlay(**parent,
                              {{0, kPageSize, above, 0}, {kPageSize, kPageSize, above, kPageSize}});
  EXPECT_EQ((*image)->Extents().size(), 2u);
}

TEST(OverlayOfRandomLayersEqualsPageByPageModel) {
  constexpr uint64_t kPages = 64;
  unsigned random = 12345;
  auto next = [&random](unsigned bound) {
    return (random = random * 1103515245 + 12345) / 65536 % bound;
  };
  std::string model(kPages, '\0');
  std::shared_ptr<const Image> image = Image::Zero(kPages * kPageSize);
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    auto file = MemoryFile(kPages, letter);
    std::vector<Extent> layer;
    for (uint64_t page = next(8); page < kPages;) {
      const uint64_t size = std::min<uint64_t>(1 + next(6), kPages - page);
      layer.push_back({page * kPageSize, size * kPageSize, file, page * kPageSize});
      for (uint64_t i = page; i < page + size; ++i) model[i] = letter;
      page += size + next(10);
    }
    auto overlaid = Image::Overlay(*image, layer);
    EXPECT_TRUE(overlaid.has_value());
    image = *overlaid;
  }
  auto view = PrivateView::Map(image);
  for (uint64_t page = 0; page < kPages; ++page) EXPECT_EQ(At(*view, page), model[page]);
}

TEST(WritesStayInTheirView) {
  auto image = Image::Make(4 * kPageSize, {{0, 4 * kPageSize, MemoryFile(4, 'x'), 0}});
  auto one = PrivateView::Map(*image), two = PrivateView::Map(*image);
  Put(*one, 1, '1');
  Put(*two, 2, '2');
  auto three = PrivateView::Map(*image);
  EXPECT_EQ(At(*one, 2), 'x');
  EXPECT_EQ(At(*two, 1), 'x');
  EXPECT_EQ(At(*three, 1), 'x');
  EXPECT_EQ(At(*three, 2), 'x');
}

TEST(AViewCanShowItsImageAgain) {
  auto below = MemoryFile(8, 'b'), above = MemoryFile(2, 'a');
  auto parent = Image::Make(8 * kPageSize, {{0, 6 * kPageSize, below, 0}});
  auto image = Image::Overlay(**parent, {{2 * kPageSize, kPageSize, above, 0}});
  auto view = PrivateView::Map(*image), other = PrivateView::Map(*image);
  for (uint64_t page = 0; page < 8; ++page) {
    Put(*view, page, 'w');
    Put(*other, page, 'o');
  }
  EXPECT_TRUE(view->ShowAgain().has_value());
  EXPECT_TRUE(view->GetImage() == *image);
  std::string seen, beside;
  for (uint64_t page = 0; page < 8; ++page) {
    seen.push_back(At(*view, page));
    beside.push_back(At(*other, page));
  }
  EXPECT_TRUE(seen == std::string("bbabbb\0\0", 8));
  EXPECT_TRUE(beside == "oooooooo");
  const auto owned = FindOwnedPages(std::span(view->Data(), view->Size()));
  EXPECT_TRUE(owned && owned->empty());
}

TEST(AReadBringsInNoNeighbours) {
  const auto faults = SinglePageFaults::Open();
  EXPECT_TRUE(faults.AreAvailable());
  auto image = Image::Make(64 * kPageSize, {{0, 64 * kPageSize, MemoryFile(64, 'x'), 0}});
  auto view = PrivateView::Map(*image, &faults), plain = PrivateView::Map(*image);
  const auto present = [](const PrivateView& shown) {
    return *FindPresentPages(std::span(shown.Data(), shown.Size()));
  };
  EXPECT_EQ(At(*plain, 20), 'x');
  EXPECT_FALSE(Same(present(*plain), Pages({{20, 1}})));  // else there is nothing to prevent
  EXPECT_EQ(At(*view, 20), 'x');
  EXPECT_TRUE(Same(present(*view), Pages({{20, 1}})));
  // What is mapped later is no exception.
  EXPECT_TRUE(view->ShowAgain().has_value());
  EXPECT_EQ(At(*view, 40), 'x');
  EXPECT_TRUE(Same(present(*view), Pages({{40, 1}})));
  auto above = Image::Overlay(**image, {{0, 32 * kPageSize, MemoryFile(32, 'y'), 0}});
  EXPECT_TRUE(view->GoOnOver(*above).has_value());
  EXPECT_EQ(At(*view, 20), 'y');
  EXPECT_TRUE(Same(present(*view), Pages({{20, 1}, {40, 1}})));
  view->MapAhead(Pages({{3, 1}, {50, 2}}));
  view->CopyAhead(Pages({{8, 1}}));
  EXPECT_TRUE(Same(present(*view), Pages({{3, 1}, {8, 1}, {20, 1}, {40, 1}, {50, 2}})));
  EXPECT_TRUE(Same(*FindOwnedPages(std::span(view->Data(), view->Size())), Pages({{8, 1}})));
}

TEST(PagesAreCountedExactly) {
  auto image = Image::Make(16 * kPageSize, {{0, 8 * kPageSize, MemoryFile(8, 'x'), 0}});
  auto view = PrivateView::Map(*image);
  ::madvise(view->Data(), view->Size(),
            MADV_RANDOM);  // no fault-around: only what is touched is present
  volatile char sink = At(*view, 3);
  Put(*view, 5, 'w');
  Put(*view, 6, 'w');
  Put(*view, 12, 'w');
  (void)sink;
  auto counts = CountPages(std::span(view->Data(), view->Size()));
  EXPECT_EQ(counts->owned_bytes, 3 * kPageSize);
  EXPECT_TRUE(counts->shared_bytes >= kPageSize);
  auto runs = FindOwnedPages(std::span(view->Data(), view->Size()));
  EXPECT_EQ(runs->size(), 2u);
  EXPECT_EQ((*runs)[0].start, 5 * kPageSize);
  EXPECT_EQ((*runs)[0].size, 2 * kPageSize);
  EXPECT_EQ((*runs)[1].start, 12 * kPageSize);
}

}  // namespace
}  // namespace vmfork

TEST_MAIN()
