// RUN: qvit-opt %s --split-input-file --lower-to-linalg | filecheck %s

// One function for each operation or side of its lowering. What is computed is tested in test_lower_to_linalg.py; that other
// compilers read it, in test_lower_to_linalg_elsewhere.py.

// Zero points are subtracted in the body, those of channels from a vector; sums start from the bias.
func.func @linear(%x: tensor<4x3xui8>, %w: tensor<2x3xi8>, %b: tensor<2xi32>) -> tensor<4x2xi32> {
  %y = qvit.linear %x, %w, %b input_zero_point <128> weight_zero_point <[1, 2]> : (tensor<4x3xui8>, tensor<2x3xi8>, tensor<2xi32>) -> tensor<4x2xi32>
  func.return %y : tensor<4x2xi32>
}
// CHECK-LABEL: @linear
// CHECK-SAME:    (%[[X:.*]]: tensor<4x3xi8>, %[[W:.*]]: tensor<2x3xi8>, %[[B:.*]]: tensor<2xi32>) -> tensor<4x2xi32>
// CHECK-NEXT:   %[[V0:.*]] = arith.constant dense<[1, 2]> : tensor<2xi32>
// CHECK-NEXT:   %[[V1:.*]] = tensor.empty() : tensor<4x2xi32>
// CHECK-NEXT:   %[[V2:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%[[B]] : tensor<2xi32>) outs(%[[V1]] : tensor<4x2xi32>) {
// CHECK-NEXT:   ^bb0(%[[V3:.*]]: i32, %[[V4:.*]]: i32):
// CHECK-NEXT:     linalg.yield %[[V3]] : i32
// CHECK-NEXT:   } -> tensor<4x2xi32>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d2)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d1)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%[[X]], %[[W]], %[[V0]] : tensor<4x3xi8>, tensor<2x3xi8>, tensor<2xi32>) outs(%[[V2]] : tensor<4x2xi32>) {
// CHECK-NEXT:   ^bb0(%[[V5:.*]]: i8, %[[V6:.*]]: i8, %[[V7:.*]]: i32, %[[V8:.*]]: i32):
// CHECK-NEXT:     %[[V9:.*]] = arith.extui %[[V5]] : i8 to i32
// CHECK-NEXT:     %[[V10:.*]] = arith.constant 128 : i32
// CHECK-NEXT:     %[[V11:.*]] = arith.subi %[[V9]], %[[V10]] : i32
// CHECK-NEXT:     %[[V12:.*]] = arith.extsi %[[V6]] : i8 to i32
// CHECK-NEXT:     %[[V13:.*]] = arith.subi %[[V12]], %[[V7]] : i32
// CHECK-NEXT:     %[[V14:.*]] = arith.muli %[[V11]], %[[V13]] : i32
// CHECK-NEXT:     %[[V15:.*]] = arith.addi %[[V8]], %[[V14]] : i32
// CHECK-NEXT:     linalg.yield %[[V15]] : i32
// CHECK-NEXT:   } -> tensor<4x2xi32>
// CHECK-NEXT:   func.return %[[Y]] : tensor<4x2xi32>

// -----

// Leading dimensions of size 1 are read at 0.
func.func @matmul(%a: tensor<2x1x4x3xi8>, %b: tensor<5x3x2xi8>) -> tensor<2x5x4x2xi32> {
  %c = qvit.matmul %a, %b : (tensor<2x1x4x3xi8>, tensor<5x3x2xi8>) -> tensor<2x5x4x2xi32>
  func.return %c : tensor<2x5x4x2xi32>
}
// CHECK-LABEL: @matmul
// CHECK-SAME:    (%[[A:.*]]: tensor<2x1x4x3xi8>, %[[B:.*]]: tensor<5x3x2xi8>) -> tensor<2x5x4x2xi32>
// CHECK-NEXT:   %[[V0:.*]] = arith.constant 0 : i32
// CHECK-NEXT:   %[[V1:.*]] = tensor.empty() : tensor<2x5x4x2xi32>
// CHECK-NEXT:   %[[V2:.*]] = linalg.fill ins(%[[V0]] : i32) outs(%[[V1]] : tensor<2x5x4x2xi32>) -> tensor<2x5x4x2xi32>
// CHECK-NEXT:   %[[C:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3, d4) -> (d0, 0, d2, d4)>, affine_map<(d0, d1, d2, d3, d4) -> (d1, d4, d3)>, affine_map<(d0, d1, d2, d3, d4) -> (d0, d1, d2, d3)>], iterator_types = ["parallel", "parallel", "parallel", "parallel", "reduction"]} ins(%[[A]], %[[B]] : tensor<2x1x4x3xi8>, tensor<5x3x2xi8>) outs(%[[V2]] : tensor<2x5x4x2xi32>) {
// CHECK-NEXT:   ^bb0(%[[V3:.*]]: i8, %[[V4:.*]]: i8, %[[V5:.*]]: i32):
// CHECK-NEXT:     %[[V6:.*]] = arith.extsi %[[V3]] : i8 to i32
// CHECK-NEXT:     %[[V7:.*]] = arith.extsi %[[V4]] : i8 to i32
// CHECK-NEXT:     %[[V8:.*]] = arith.muli %[[V6]], %[[V7]] : i32
// CHECK-NEXT:     %[[V9:.*]] = arith.addi %[[V5]], %[[V8]] : i32
// CHECK-NEXT:     linalg.yield %[[V9]] : i32
// CHECK-NEXT:   } -> tensor<2x5x4x2xi32>
// CHECK-NEXT:   func.return %[[C]] : tensor<2x5x4x2xi32>

// -----

// Padding is of the code that stands for 0: ui8 128 is i8 -128. Groups are a dimension of their own.
func.func @conv2d(%x: tensor<1x4x8x8xui8>, %w: tensor<6x2x3x3xi8>) -> tensor<1x6x4x4xi32> {
  %y = qvit.conv2d %x, %w input_zero_point <128> {strides = array<i64: 2, 2>, padding = array<i64: 1, 1, 0, 0>, groups = 2 : i64} : (tensor<1x4x8x8xui8>, tensor<6x2x3x3xi8>) -> tensor<1x6x4x4xi32>
  func.return %y : tensor<1x6x4x4xi32>
}
// CHECK-LABEL: @conv2d
// CHECK-SAME:    (%[[X:.*]]: tensor<1x4x8x8xi8>, %[[W:.*]]: tensor<6x2x3x3xi8>) -> tensor<1x6x4x4xi32>
// CHECK-NEXT:   %[[V0:.*]] = tensor.pad %[[X]] low[0, 0, 1, 1] high[0, 0, 0, 0] {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: index, %[[V2:.*]]: index, %[[V3:.*]]: index, %[[V4:.*]]: index):
// CHECK-NEXT:     %[[V5:.*]] = arith.constant -128 : i8
// CHECK-NEXT:     tensor.yield %[[V5]] : i8
// CHECK-NEXT:   } : tensor<1x4x8x8xi8> to tensor<1x4x9x9xi8>
// CHECK-NEXT:   %[[V6:.*]] = arith.constant 0 : i32
// CHECK-NEXT:   %[[V7:.*]] = tensor.empty() : tensor<1x6x4x4xi32>
// CHECK-NEXT:   %[[V8:.*]] = linalg.fill ins(%[[V6]] : i32) outs(%[[V7]] : tensor<1x6x4x4xi32>) -> tensor<1x6x4x4xi32>
// CHECK-NEXT:   %[[V9:.*]] = tensor.expand_shape %[[V0]] {{\[\[}}0 : i64], [1 : i64, 2 : i64], [3 : i64], [4 : i64]] output_shape [1, 2, 2, 9, 9] : tensor<1x4x9x9xi8> into tensor<1x2x2x9x9xi8>
// CHECK-NEXT:   %[[V10:.*]] = tensor.expand_shape %[[W]] {{\[\[}}0 : i64, 1 : i64], [2 : i64], [3 : i64], [4 : i64]] output_shape [2, 3, 2, 3, 3] : tensor<6x2x3x3xi8> into tensor<2x3x2x3x3xi8>
// CHECK-NEXT:   %[[V11:.*]] = tensor.expand_shape %[[V8]] {{\[\[}}0 : i64], [1 : i64, 2 : i64], [3 : i64], [4 : i64]] output_shape [1, 2, 3, 4, 4] : tensor<1x6x4x4xi32> into tensor<1x2x3x4x4xi32>
// CHECK-NEXT:   %[[V12:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2, d3, d4, d5, d6, d7) -> (d0, d1, d5, ((d3 * 2) + d6), ((d4 * 2) + d7))>, affine_map<(d0, d1, d2, d3, d4, d5, d6, d7) -> (d1, d2, d5, d6, d7)>, affine_map<(d0, d1, d2, d3, d4, d5, d6, d7) -> (d0, d1, d2, d3, d4)>], iterator_types = ["parallel", "parallel", "parallel", "parallel", "parallel", "reduction", "reduction", "reduction"]} ins(%[[V9]], %[[V10]] : tensor<1x2x2x9x9xi8>, tensor<2x3x2x3x3xi8>) outs(%[[V11]] : tensor<1x2x3x4x4xi32>) {
// CHECK-NEXT:   ^bb0(%[[V13:.*]]: i8, %[[V14:.*]]: i8, %[[V15:.*]]: i32):
// CHECK-NEXT:     %[[V16:.*]] = arith.extui %[[V13]] : i8 to i32
// CHECK-NEXT:     %[[V17:.*]] = arith.constant 128 : i32
// CHECK-NEXT:     %[[V18:.*]] = arith.subi %[[V16]], %[[V17]] : i32
// CHECK-NEXT:     %[[V19:.*]] = arith.extsi %[[V14]] : i8 to i32
// CHECK-NEXT:     %[[V20:.*]] = arith.muli %[[V18]], %[[V19]] : i32
// CHECK-NEXT:     %[[V21:.*]] = arith.addi %[[V15]], %[[V20]] : i32
// CHECK-NEXT:     linalg.yield %[[V21]] : i32
// CHECK-NEXT:   } -> tensor<1x2x3x4x4xi32>
// CHECK-NEXT:   %[[Y:.*]] = tensor.collapse_shape %[[V12]] {{\[\[}}0 : i64], [1 : i64, 2 : i64], [3 : i64], [4 : i64]] : tensor<1x2x3x4x4xi32> into tensor<1x6x4x4xi32>
// CHECK-NEXT:   func.return %[[Y]] : tensor<1x6x4x4xi32>

// -----

// The product needs 64 bits. Ties go to the even quotient.
func.func @requantize_half_even(%x: tensor<2xi32>) -> tensor<2xui8> {
  %y = qvit.requantize %x by #qvit.dyadic<5, 9> zero_point <3> : tensor<2xi32> -> tensor<2xui8>
  func.return %y : tensor<2xui8>
}
// CHECK-LABEL: @requantize_half_even
// CHECK-SAME:    (%[[X:.*]]: tensor<2xi32>) -> tensor<2xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[X]] : tensor<2xi32>) outs(%[[V0]] : tensor<2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i32, %[[V2:.*]]: i8):
// CHECK-NEXT:     %[[V3:.*]] = arith.extsi %[[V1]] : i32 to i64
// CHECK-NEXT:     %[[V4:.*]] = arith.constant 5 : i64
// CHECK-NEXT:     %[[V5:.*]] = arith.muli %[[V3]], %[[V4]] : i64
// CHECK-NEXT:     %[[V6:.*]] = arith.constant 9 : i64
// CHECK-NEXT:     %[[V7:.*]] = arith.shrsi %[[V5]], %[[V6]] : i64
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 511 : i64
// CHECK-NEXT:     %[[V9:.*]] = arith.andi %[[V5]], %[[V8]] : i64
// CHECK-NEXT:     %[[V10:.*]] = arith.constant 256 : i64
// CHECK-NEXT:     %[[V11:.*]] = arith.constant 1 : i64
// CHECK-NEXT:     %[[V12:.*]] = arith.andi %[[V7]], %[[V11]] : i64
// CHECK-NEXT:     %[[V13:.*]] = arith.addi %[[V9]], %[[V12]] : i64
// CHECK-NEXT:     %[[V14:.*]] = arith.cmpi sgt, %[[V13]], %[[V10]] : i64
// CHECK-NEXT:     %[[V15:.*]] = arith.extui %[[V14]] : i1 to i64
// CHECK-NEXT:     %[[V16:.*]] = arith.addi %[[V7]], %[[V15]] : i64
// CHECK-NEXT:     %[[V17:.*]] = arith.constant 3 : i64
// CHECK-NEXT:     %[[V18:.*]] = arith.addi %[[V16]], %[[V17]] : i64
// CHECK-NEXT:     %[[V19:.*]] = arith.constant 0 : i64
// CHECK-NEXT:     %[[V20:.*]] = arith.maxsi %[[V18]], %[[V19]] : i64
// CHECK-NEXT:     %[[V21:.*]] = arith.constant 255 : i64
// CHECK-NEXT:     %[[V22:.*]] = arith.minsi %[[V20]], %[[V21]] : i64
// CHECK-NEXT:     %[[V23:.*]] = arith.trunci %[[V22]] : i64 to i8
// CHECK-NEXT:     linalg.yield %[[V23]] : i8
// CHECK-NEXT:   } -> tensor<2xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi8>

// -----

// Shifts of channels; a result that cannot leave its type is not clamped.
func.func @requantize_vector(%x: tensor<2x3xi8>) -> tensor<2x3xi8> {
  %y = qvit.requantize %x by #qvit.pot<[1, 2, 3]> axis 1 rounding floor : tensor<2x3xi8> -> tensor<2x3xi8>
  func.return %y : tensor<2x3xi8>
}
// CHECK-LABEL: @requantize_vector
// CHECK-SAME:    (%[[X:.*]]: tensor<2x3xi8>) -> tensor<2x3xi8>
// CHECK-NEXT:   %[[V0:.*]] = arith.constant dense<[1, 2, 3]> : tensor<3xi32>
// CHECK-NEXT:   %[[V1:.*]] = tensor.empty() : tensor<2x3xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%[[X]], %[[V0]] : tensor<2x3xi8>, tensor<3xi32>) outs(%[[V1]] : tensor<2x3xi8>) {
// CHECK-NEXT:   ^bb0(%[[V2:.*]]: i8, %[[V3:.*]]: i32, %[[V4:.*]]: i8):
// CHECK-NEXT:     %[[V5:.*]] = arith.extsi %[[V2]] : i8 to i32
// CHECK-NEXT:     %[[V6:.*]] = arith.shrsi %[[V5]], %[[V3]] : i32
// CHECK-NEXT:     %[[V7:.*]] = arith.trunci %[[V6]] : i32 to i8
// CHECK-NEXT:     linalg.yield %[[V7]] : i8
// CHECK-NEXT:   } -> tensor<2x3xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2x3xi8>

// -----

func.func @half_up(%x: tensor<2xi8>) -> tensor<2xi8> {
  %y = qvit.requantize %x by #qvit.pot<2> rounding half_up : tensor<2xi8> -> tensor<2xi8>
  func.return %y : tensor<2xi8>
}
// CHECK-LABEL: @half_up
// CHECK-SAME:    (%[[X:.*]]: tensor<2xi8>) -> tensor<2xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[X]] : tensor<2xi8>) outs(%[[V0]] : tensor<2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8):
// CHECK-NEXT:     %[[V3:.*]] = arith.extsi %[[V1]] : i8 to i32
// CHECK-NEXT:     %[[V4:.*]] = arith.constant 2 : i32
// CHECK-NEXT:     %[[V5:.*]] = arith.shrsi %[[V3]], %[[V4]] : i32
// CHECK-NEXT:     %[[V6:.*]] = arith.constant 3 : i32
// CHECK-NEXT:     %[[V7:.*]] = arith.andi %[[V3]], %[[V6]] : i32
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 2 : i32
// CHECK-NEXT:     %[[V9:.*]] = arith.cmpi sge, %[[V7]], %[[V8]] : i32
// CHECK-NEXT:     %[[V10:.*]] = arith.extui %[[V9]] : i1 to i32
// CHECK-NEXT:     %[[V11:.*]] = arith.addi %[[V5]], %[[V10]] : i32
// CHECK-NEXT:     %[[V12:.*]] = arith.trunci %[[V11]] : i32 to i8
// CHECK-NEXT:     linalg.yield %[[V12]] : i8
// CHECK-NEXT:   } -> tensor<2xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi8>

// -----

// A negative tie does not go up: the sign is -1.
func.func @half_away(%x: tensor<2xi8>) -> tensor<2xi8> {
  %y = qvit.requantize %x by #qvit.pot<2> rounding half_away : tensor<2xi8> -> tensor<2xi8>
  func.return %y : tensor<2xi8>
}
// CHECK-LABEL: @half_away
// CHECK-SAME:    (%[[X:.*]]: tensor<2xi8>) -> tensor<2xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[X]] : tensor<2xi8>) outs(%[[V0]] : tensor<2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8):
// CHECK-NEXT:     %[[V3:.*]] = arith.extsi %[[V1]] : i8 to i32
// CHECK-NEXT:     %[[V4:.*]] = arith.constant 2 : i32
// CHECK-NEXT:     %[[V5:.*]] = arith.shrsi %[[V3]], %[[V4]] : i32
// CHECK-NEXT:     %[[V6:.*]] = arith.constant 3 : i32
// CHECK-NEXT:     %[[V7:.*]] = arith.andi %[[V3]], %[[V6]] : i32
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 2 : i32
// CHECK-NEXT:     %[[V9:.*]] = arith.constant 31 : i32
// CHECK-NEXT:     %[[V10:.*]] = arith.shrsi %[[V3]], %[[V9]] : i32
// CHECK-NEXT:     %[[V11:.*]] = arith.addi %[[V7]], %[[V10]] : i32
// CHECK-NEXT:     %[[V12:.*]] = arith.cmpi sge, %[[V11]], %[[V8]] : i32
// CHECK-NEXT:     %[[V13:.*]] = arith.extui %[[V12]] : i1 to i32
// CHECK-NEXT:     %[[V14:.*]] = arith.addi %[[V5]], %[[V13]] : i32
// CHECK-NEXT:     %[[V15:.*]] = arith.trunci %[[V14]] : i32 to i8
// CHECK-NEXT:     linalg.yield %[[V15]] : i8
// CHECK-NEXT:   } -> tensor<2xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi8>

// -----

// Both terms over their common denominator.
func.func @add_requant(%a: tensor<2xi8>, %b: tensor<2xi8>) -> tensor<2xi8> {
  %y = qvit.add_requant %a by #qvit.dyadic<3, 2>, %b by #qvit.pot<0> rounding floor : (tensor<2xi8>, tensor<2xi8>) -> tensor<2xi8>
  func.return %y : tensor<2xi8>
}
// CHECK-LABEL: @add_requant
// CHECK-SAME:    (%[[A:.*]]: tensor<2xi8>, %[[B:.*]]: tensor<2xi8>) -> tensor<2xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[A]], %[[B]] : tensor<2xi8>, tensor<2xi8>) outs(%[[V0]] : tensor<2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8, %[[V3:.*]]: i8):
// CHECK-NEXT:     %[[V4:.*]] = arith.extsi %[[V1]] : i8 to i32
// CHECK-NEXT:     %[[V5:.*]] = arith.constant 3 : i32
// CHECK-NEXT:     %[[V6:.*]] = arith.muli %[[V4]], %[[V5]] : i32
// CHECK-NEXT:     %[[V7:.*]] = arith.extsi %[[V2]] : i8 to i32
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 4 : i32
// CHECK-NEXT:     %[[V9:.*]] = arith.muli %[[V7]], %[[V8]] : i32
// CHECK-NEXT:     %[[V10:.*]] = arith.addi %[[V6]], %[[V9]] : i32
// CHECK-NEXT:     %[[V11:.*]] = arith.constant 2 : i32
// CHECK-NEXT:     %[[V12:.*]] = arith.shrsi %[[V10]], %[[V11]] : i32
// CHECK-NEXT:     %[[V13:.*]] = arith.constant -128 : i32
// CHECK-NEXT:     %[[V14:.*]] = arith.maxsi %[[V12]], %[[V13]] : i32
// CHECK-NEXT:     %[[V15:.*]] = arith.constant 127 : i32
// CHECK-NEXT:     %[[V16:.*]] = arith.minsi %[[V14]], %[[V15]] : i32
// CHECK-NEXT:     %[[V17:.*]] = arith.trunci %[[V16]] : i32 to i8
// CHECK-NEXT:     linalg.yield %[[V17]] : i8
// CHECK-NEXT:   } -> tensor<2xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi8>

// -----

// Clamped as a float, before the zero point is added.
func.func @quantize(%x: tensor<2xf32>) -> tensor<2xui8> {
  %y = qvit.quantize %x <0.5, zero_point = 128> : tensor<2xf32> -> tensor<2xui8>
  func.return %y : tensor<2xui8>
}
// CHECK-LABEL: @quantize
// CHECK-SAME:    (%[[X:.*]]: tensor<2xf32>) -> tensor<2xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[X]] : tensor<2xf32>) outs(%[[V0]] : tensor<2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: f32, %[[V2:.*]]: i8):
// CHECK-NEXT:     %[[V3:.*]] = arith.constant 5.000000e-01 : f32
// CHECK-NEXT:     %[[V4:.*]] = arith.divf %[[V1]], %[[V3]] : f32
// CHECK-NEXT:     %[[V5:.*]] = math.roundeven %[[V4]] : f32
// CHECK-NEXT:     %[[V6:.*]] = arith.constant -1.280000e+02 : f32
// CHECK-NEXT:     %[[V7:.*]] = arith.maximumf %[[V5]], %[[V6]] : f32
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 1.270000e+02 : f32
// CHECK-NEXT:     %[[V9:.*]] = arith.minimumf %[[V7]], %[[V8]] : f32
// CHECK-NEXT:     %[[V10:.*]] = arith.fptosi %[[V9]] : f32 to i32
// CHECK-NEXT:     %[[V11:.*]] = arith.constant 128 : i32
// CHECK-NEXT:     %[[V12:.*]] = arith.addi %[[V10]], %[[V11]] : i32
// CHECK-NEXT:     %[[V13:.*]] = arith.trunci %[[V12]] : i32 to i8
// CHECK-NEXT:     linalg.yield %[[V13]] : i8
// CHECK-NEXT:   } -> tensor<2xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi8>

// -----

// The bounds of i32 are exact in f64 only.
func.func @quantize_wide(%x: tensor<2xf32>) -> tensor<2xi32> {
  %y = qvit.quantize %x <0.5> : tensor<2xf32> -> tensor<2xi32>
  func.return %y : tensor<2xi32>
}
// CHECK-LABEL: @quantize_wide
// CHECK-SAME:    (%[[X:.*]]: tensor<2xf32>) -> tensor<2xi32>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xi32>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[X]] : tensor<2xf32>) outs(%[[V0]] : tensor<2xi32>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: f32, %[[V2:.*]]: i32):
// CHECK-NEXT:     %[[V3:.*]] = arith.constant 5.000000e-01 : f32
// CHECK-NEXT:     %[[V4:.*]] = arith.divf %[[V1]], %[[V3]] : f32
// CHECK-NEXT:     %[[V5:.*]] = math.roundeven %[[V4]] : f32
// CHECK-NEXT:     %[[V6:.*]] = arith.extf %[[V5]] : f32 to f64
// CHECK-NEXT:     %[[V7:.*]] = arith.constant 0xC1E0000000000000 : f64
// CHECK-NEXT:     %[[V8:.*]] = arith.maximumf %[[V6]], %[[V7]] : f64
// CHECK-NEXT:     %[[V9:.*]] = arith.constant 0x41DFFFFFFFC00000 : f64
// CHECK-NEXT:     %[[V10:.*]] = arith.minimumf %[[V8]], %[[V9]] : f64
// CHECK-NEXT:     %[[V11:.*]] = arith.fptosi %[[V10]] : f64 to i64
// CHECK-NEXT:     %[[V12:.*]] = arith.trunci %[[V11]] : i64 to i32
// CHECK-NEXT:     linalg.yield %[[V12]] : i32
// CHECK-NEXT:   } -> tensor<2xi32>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2xi32>

// -----

// The factors of the scale are multiplied in the precision of the result.
func.func @dequantize(%q: tensor<3x2xi8>) -> tensor<3x2xf32> {
  %y = qvit.dequantize %q <0.5 * [0.5, 0.25], zero_point = 3, axis = 1> : tensor<3x2xi8> -> tensor<3x2xf32>
  func.return %y : tensor<3x2xf32>
}
// CHECK-LABEL: @dequantize
// CHECK-SAME:    (%[[Q:.*]]: tensor<3x2xi8>) -> tensor<3x2xf32>
// CHECK-NEXT:   %[[V0:.*]] = arith.constant dense<[2.500000e-01, 1.250000e-01]> : tensor<2xf32>
// CHECK-NEXT:   %[[V1:.*]] = tensor.empty() : tensor<3x2xf32>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%[[Q]], %[[V0]] : tensor<3x2xi8>, tensor<2xf32>) outs(%[[V1]] : tensor<3x2xf32>) {
// CHECK-NEXT:   ^bb0(%[[V2:.*]]: i8, %[[V3:.*]]: f32, %[[V4:.*]]: f32):
// CHECK-NEXT:     %[[V5:.*]] = arith.extsi %[[V2]] : i8 to i32
// CHECK-NEXT:     %[[V6:.*]] = arith.constant 3 : i32
// CHECK-NEXT:     %[[V7:.*]] = arith.subi %[[V5]], %[[V6]] : i32
// CHECK-NEXT:     %[[V8:.*]] = arith.sitofp %[[V7]] : i32 to f32
// CHECK-NEXT:     %[[V9:.*]] = arith.mulf %[[V8]], %[[V3]] : f32
// CHECK-NEXT:     linalg.yield %[[V9]] : f32
// CHECK-NEXT:   } -> tensor<3x2xf32>
// CHECK-NEXT:   func.return %[[Y]] : tensor<3x2xf32>

// -----

func.func @threshold(%x: tensor<2x3xi32>, %t: tensor<3x7xi16>) -> tensor<2x3xi4> {
  %y = qvit.threshold %x, %t lowest -4 axis 1 : (tensor<2x3xi32>, tensor<3x7xi16>) -> tensor<2x3xi4>
  func.return %y : tensor<2x3xi4>
}
// CHECK-LABEL: @threshold
// CHECK-SAME:    (%[[X:.*]]: tensor<2x3xi32>, %[[T:.*]]: tensor<3x7xi16>) -> tensor<2x3xi4>
// CHECK-NEXT:   %[[V0:.*]] = arith.constant -4 : i4
// CHECK-NEXT:   %[[V1:.*]] = tensor.empty() : tensor<2x3xi4>
// CHECK-NEXT:   %[[V2:.*]] = linalg.fill ins(%[[V0]] : i4) outs(%[[V1]] : tensor<2x3xi4>) -> tensor<2x3xi4>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d0, d1)>, affine_map<(d0, d1, d2) -> (d1, d2)>, affine_map<(d0, d1, d2) -> (d0, d1)>], iterator_types = ["parallel", "parallel", "reduction"]} ins(%[[X]], %[[T]] : tensor<2x3xi32>, tensor<3x7xi16>) outs(%[[V2]] : tensor<2x3xi4>) {
// CHECK-NEXT:   ^bb0(%[[V3:.*]]: i32, %[[V4:.*]]: i16, %[[V5:.*]]: i4):
// CHECK-NEXT:     %[[V6:.*]] = arith.extsi %[[V4]] : i16 to i32
// CHECK-NEXT:     %[[V7:.*]] = arith.cmpi sge, %[[V3]], %[[V6]] : i32
// CHECK-NEXT:     %[[V8:.*]] = arith.extui %[[V7]] : i1 to i4
// CHECK-NEXT:     %[[V9:.*]] = arith.addi %[[V5]], %[[V8]] : i4
// CHECK-NEXT:     linalg.yield %[[V9]] : i4
// CHECK-NEXT:   } -> tensor<2x3xi4>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2x3xi4>

// -----

// Modulo 2^32: exact where the exact product fits.
func.func @mul(%a: tensor<2x1xui8>, %b: tensor<3xi64>) -> tensor<2x3xi32> {
  %y = qvit.mul %a, %b : (tensor<2x1xui8>, tensor<3xi64>) -> tensor<2x3xi32>
  func.return %y : tensor<2x3xi32>
}
// CHECK-LABEL: @mul
// CHECK-SAME:    (%[[A:.*]]: tensor<2x1xi8>, %[[B:.*]]: tensor<3xi64>) -> tensor<2x3xi32>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2x3xi32>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, 0)>, affine_map<(d0, d1) -> (d1)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%[[A]], %[[B]] : tensor<2x1xi8>, tensor<3xi64>) outs(%[[V0]] : tensor<2x3xi32>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i64, %[[V3:.*]]: i32):
// CHECK-NEXT:     %[[V4:.*]] = arith.extui %[[V1]] : i8 to i32
// CHECK-NEXT:     %[[V5:.*]] = arith.trunci %[[V2]] : i64 to i32
// CHECK-NEXT:     %[[V6:.*]] = arith.muli %[[V4]], %[[V5]] : i32
// CHECK-NEXT:     linalg.yield %[[V6]] : i32
// CHECK-NEXT:   } -> tensor<2x3xi32>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2x3xi32>

// -----

func.func @reshape(%x: tensor<4x6xui8>) -> tensor<2x3x4xui8> {
  %y = qvit.reshape %x : tensor<4x6xui8> -> tensor<2x3x4xui8>
  func.return %y : tensor<2x3x4xui8>
}
// CHECK-LABEL: @reshape
// CHECK-SAME:    (%[[X:.*]]: tensor<4x6xi8>) -> tensor<2x3x4xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.collapse_shape %[[X]] {{\[\[}}0 : i64, 1 : i64]] : tensor<4x6xi8> into tensor<24xi8>
// CHECK-NEXT:   %[[Y:.*]] = tensor.expand_shape %[[V0]] {{\[\[}}0 : i64, 1 : i64, 2 : i64]] output_shape [2, 3, 4] : tensor<24xi8> into tensor<2x3x4xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2x3x4xi8>

// -----

// Dimensions that both shapes have stay apart.
func.func @heads(%x: tensor<4x6xi8>) -> tensor<4x2x3xi8> {
  %y = qvit.reshape %x : tensor<4x6xi8> -> tensor<4x2x3xi8>
  func.return %y : tensor<4x2x3xi8>
}
// CHECK-LABEL: @heads
// CHECK-SAME:    (%[[X:.*]]: tensor<4x6xi8>) -> tensor<4x2x3xi8>
// CHECK-NEXT:   %[[Y:.*]] = tensor.expand_shape %[[X]] {{\[\[}}0 : i64], [1 : i64, 2 : i64]] output_shape [4, 2, 3] : tensor<4x6xi8> into tensor<4x2x3xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<4x2x3xi8>

// -----

// A slice that walks backwards reads elements one by one.
func.func @move(%x: tensor<4x6xi8>) -> tensor<6x3xi8> {
  %t = qvit.transpose %x [1, 0] : tensor<4x6xi8> -> tensor<6x4xi8>
  %s = qvit.slice %t axis 1 start 3 size 2 step -2 : tensor<6x4xi8> -> tensor<6x2xi8>
  %f = qvit.slice %s axis 1 start 1 size 1 step 1 : tensor<6x2xi8> -> tensor<6x1xi8>
  %c = qvit.concat %f, %s axis 1 : (tensor<6x1xi8>, tensor<6x2xi8>) -> tensor<6x3xi8>
  func.return %c : tensor<6x3xi8>
}
// CHECK-LABEL: @move
// CHECK-SAME:    (%[[X:.*]]: tensor<4x6xi8>) -> tensor<6x3xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<6x4xi8>
// CHECK-NEXT:   %[[T:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d1, d0)>, affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} ins(%[[X]] : tensor<4x6xi8>) outs(%[[V0]] : tensor<6x4xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8):
// CHECK-NEXT:     linalg.yield %[[V1]] : i8
// CHECK-NEXT:   } -> tensor<6x4xi8>
// CHECK-NEXT:   %[[V3:.*]] = tensor.empty() : tensor<6x2xi8>
// CHECK-NEXT:   %[[S:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1) -> (d0, d1)>], iterator_types = ["parallel", "parallel"]} outs(%[[V3]] : tensor<6x2xi8>) {
// CHECK-NEXT:   ^bb0(%[[V4:.*]]: i8):
// CHECK-NEXT:     %[[V5:.*]] = linalg.index 1 : index
// CHECK-NEXT:     %[[V6:.*]] = arith.constant -2 : index
// CHECK-NEXT:     %[[V7:.*]] = arith.muli %[[V5]], %[[V6]] : index
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 3 : index
// CHECK-NEXT:     %[[V9:.*]] = arith.addi %[[V7]], %[[V8]] : index
// CHECK-NEXT:     %[[V10:.*]] = linalg.index 0 : index
// CHECK-NEXT:     %[[V11:.*]] = tensor.extract %[[T]][%[[V10]], %[[V9]]] : tensor<6x4xi8>
// CHECK-NEXT:     linalg.yield %[[V11]] : i8
// CHECK-NEXT:   } -> tensor<6x2xi8>
// CHECK-NEXT:   %[[F:.*]] = tensor.extract_slice %[[S]][0, 1] [6, 1] [1, 1] : tensor<6x2xi8> to tensor<6x1xi8>
// CHECK-NEXT:   %[[C:.*]] = tensor.concat dim(1) %[[F]], %[[S]] : (tensor<6x1xi8>, tensor<6x2xi8>) -> tensor<6x3xi8>
// CHECK-NEXT:   func.return %[[C]] : tensor<6x3xi8>

// -----

func.func @gather(%x: tensor<2x9x3xi8>, %i: tensor<4xui8>) -> tensor<2x4x3xi8> {
  %y = qvit.gather %x, %i axis 1 : (tensor<2x9x3xi8>, tensor<4xui8>) -> tensor<2x4x3xi8>
  func.return %y : tensor<2x4x3xi8>
}
// CHECK-LABEL: @gather
// CHECK-SAME:    (%[[X:.*]]: tensor<2x9x3xi8>, %[[I:.*]]: tensor<4xi8>) -> tensor<2x4x3xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2x4x3xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d1)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%[[I]] : tensor<4xi8>) outs(%[[V0]] : tensor<2x4x3xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8):
// CHECK-NEXT:     %[[V3:.*]] = arith.extui %[[V1]] : i8 to i32
// CHECK-NEXT:     %[[V4:.*]] = arith.index_cast %[[V3]] : i32 to index
// CHECK-NEXT:     %[[V5:.*]] = linalg.index 0 : index
// CHECK-NEXT:     %[[V6:.*]] = linalg.index 2 : index
// CHECK-NEXT:     %[[V7:.*]] = tensor.extract %[[X]][%[[V5]], %[[V4]], %[[V6]]] : tensor<2x9x3xi8>
// CHECK-NEXT:     linalg.yield %[[V7]] : i8
// CHECK-NEXT:   } -> tensor<2x4x3xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<2x4x3xi8>

// -----

func.func @broadcast(%x: tensor<4x1xi8>) -> tensor<3x4x5xi8> {
  %y = qvit.broadcast %x : tensor<4x1xi8> -> tensor<3x4x5xi8>
  func.return %y : tensor<3x4x5xi8>
}
// CHECK-LABEL: @broadcast
// CHECK-SAME:    (%[[X:.*]]: tensor<4x1xi8>) -> tensor<3x4x5xi8>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<3x4x5xi8>
// CHECK-NEXT:   %[[Y:.*]] = linalg.generic {indexing_maps = [affine_map<(d0, d1, d2) -> (d1, 0)>, affine_map<(d0, d1, d2) -> (d0, d1, d2)>], iterator_types = ["parallel", "parallel", "parallel"]} ins(%[[X]] : tensor<4x1xi8>) outs(%[[V0]] : tensor<3x4x5xi8>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: i8, %[[V2:.*]]: i8):
// CHECK-NEXT:     linalg.yield %[[V1]] : i8
// CHECK-NEXT:   } -> tensor<3x4x5xi8>
// CHECK-NEXT:   func.return %[[Y]] : tensor<3x4x5xi8>

// -----

// Unsigned numbers by their bits.
func.func @constant() -> tensor<3xui8> {
  %c = qvit.constant dense<[1, 128, 255]> : tensor<3xui8>
  func.return %c : tensor<3xui8>
}
// CHECK-LABEL: @constant() -> tensor<3xi8>
// CHECK-NEXT:   %[[C:.*]] = arith.constant dense<[1, -128, -1]> : tensor<3xi8>
// CHECK-NEXT:   func.return %[[C]] : tensor<3xi8>

// -----

func.func @floats(%a: tensor<2xf32>, %b: tensor<2xf32>) -> tensor<2xf32> {
  %c = qvit.div %a, %b : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
  %d = qvit.relu %c : tensor<2xf32>
  %e = qvit.sqrt %d : tensor<2xf32>
  func.return %e : tensor<2xf32>
}
// CHECK-LABEL: @floats
// CHECK-SAME:    (%[[A:.*]]: tensor<2xf32>, %[[B:.*]]: tensor<2xf32>) -> tensor<2xf32>
// CHECK-NEXT:   %[[V0:.*]] = tensor.empty() : tensor<2xf32>
// CHECK-NEXT:   %[[C:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[A]], %[[B]] : tensor<2xf32>, tensor<2xf32>) outs(%[[V0]] : tensor<2xf32>) {
// CHECK-NEXT:   ^bb0(%[[V1:.*]]: f32, %[[V2:.*]]: f32, %[[V3:.*]]: f32):
// CHECK-NEXT:     %[[V4:.*]] = arith.divf %[[V1]], %[[V2]] : f32
// CHECK-NEXT:     linalg.yield %[[V4]] : f32
// CHECK-NEXT:   } -> tensor<2xf32>
// CHECK-NEXT:   %[[V5:.*]] = tensor.empty() : tensor<2xf32>
// CHECK-NEXT:   %[[D:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[C]] : tensor<2xf32>) outs(%[[V5]] : tensor<2xf32>) {
// CHECK-NEXT:   ^bb0(%[[V6:.*]]: f32, %[[V7:.*]]: f32):
// CHECK-NEXT:     %[[V8:.*]] = arith.constant 0.000000e+00 : f32
// CHECK-NEXT:     %[[V9:.*]] = arith.maximumf %[[V6]], %[[V8]] : f32
// CHECK-NEXT:     linalg.yield %[[V9]] : f32
// CHECK-NEXT:   } -> tensor<2xf32>
// CHECK-NEXT:   %[[V10:.*]] = tensor.empty() : tensor<2xf32>
// CHECK-NEXT:   %[[E:.*]] = linalg.generic {indexing_maps = [affine_map<(d0) -> (d0)>, affine_map<(d0) -> (d0)>], iterator_types = ["parallel"]} ins(%[[D]] : tensor<2xf32>) outs(%[[V10]] : tensor<2xf32>) {
// CHECK-NEXT:   ^bb0(%[[V11:.*]]: f32, %[[V12:.*]]: f32):
// CHECK-NEXT:     %[[V13:.*]] = math.sqrt %[[V11]] : f32
// CHECK-NEXT:     linalg.yield %[[V13]] : f32
// CHECK-NEXT:   } -> tensor<2xf32>
// CHECK-NEXT:   func.return %[[E]] : tensor<2xf32>

// -----

// No attribute of the dialect is left; others are.
builtin.module attributes {qvit.weights = []} {
  func.func @names(%a: tensor<2xui8> {qvit.name = "image", other.name = "kept"}) -> (tensor<2xui8> {qvit.name = "codes"}) attributes {qvit.integer_only} {
    func.return %a : tensor<2xui8>
  }
}
// CHECK:      builtin.module {
// CHECK-NEXT:   func.func @names(%[[A:.*]]: tensor<2xi8> {other.name = "kept"}) -> (tensor<2xi8>) {
// CHECK-NEXT:   func.return %[[A]] : tensor<2xi8>
